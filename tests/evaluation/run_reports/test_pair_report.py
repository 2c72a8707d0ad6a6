"""The report of a pair: problems, JSON and table."""

import json
import math
from dataclasses import replace

import pytest

from megatron_ettin.evaluation.run_reports.pair_report import ModelReport, PairReport
from megatron_ettin.evaluation.run_reports.samples import Continuation, FilledMask

ENCODER = ModelReport(
    name="encoder", objective="mlm", run_folder="runs/e", released_folder="runs/e/hf", parameters=2_082_688, steps=300,
    tokens=613_999, first_loss=8.2, last_loss=5.6, validation_loss=5.7, released_validation_loss=5.70001,
    scored_tokens=5_700, logit_difference=4e-7, tokens_per_second=12_345.6,
    sample=FilledMask("a [MASK].", " cat", ((" dog", 0.25),)),
)  # fmt: skip
DECODER = replace(ENCODER, name="decoder", objective="clm", validation_loss=5.1, released_validation_loss=5.1,
                  sample=Continuation("a cat", " sat"))  # fmt: skip
GOOD = PairReport(validation_tokens=38_000, unigram_entropy=6.4, models=(ENCODER, DECODER))


def with_encoder(**changes: float) -> PairReport:
    return replace(GOOD, models=(replace(ENCODER, **changes), DECODER))  # type: ignore[arg-type]


def test_good_pair_has_no_problems() -> None:
    assert GOOD.problems() == []
    assert "error" not in GOOD.text()


@pytest.mark.parametrize("loss", [6.11, math.nan, math.inf])
def test_model_that_did_not_learn_is_a_problem(loss: float) -> None:
    report = with_encoder(validation_loss=loss, released_validation_loss=loss)
    assert report.problems()[0].startswith("encoder: validation loss")
    assert "error: encoder: validation loss" in report.text()
    # just low enough
    assert with_encoder(validation_loss=6.09, released_validation_loss=6.09).problems() == []


def test_release_with_another_loss_is_a_problem() -> None:
    assert "released model's validation loss is 5.70200" in with_encoder(released_validation_loss=5.702).problems()[0]


@pytest.mark.parametrize("difference", [3e-5, math.nan])
def test_release_with_other_logits_is_a_problem(difference: float) -> None:
    assert "logits differ" in with_encoder(logit_difference=difference).problems()[0]


def test_json_contains_measurements_and_problems() -> None:
    report = json.loads(json.dumps(with_encoder(validation_loss=6.3, released_validation_loss=6.3).to_dict()))
    assert report["unigram_entropy"] == 6.4
    assert [model["validation_loss"] for model in report["models"]] == [6.3, 5.1]
    assert report["models"][1]["sample"] == {"prompt": "a cat", "text": " sat"}
    assert len(report["problems"]) == 1


def test_table_has_a_column_for_each_model() -> None:
    lines = {line[:26].strip(): line.split() for line in GOOD.text().splitlines()}
    assert lines["validation loss"][-2:] == ["5.700", "5.100"]
    assert lines["below it by (nats)"][-2:] == ["0.700", "1.300"]
    assert lines["tokens/s"][-2:] == ["12,346", "12,346"]
