"""Measuring a released folder against the trained model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from megatron_ettin.checkpoint.folder.metrics_file import LossCurve, LossPoint
from megatron_ettin.evaluation.run_reports.release_report import TrainedModel, report_release
from megatron_ettin.evaluation.run_reports.samples import Continuation, FilledMask
from megatron_ettin.evaluation.run_reports.scoring import ScoredChunk, score_released
from tests.evaluation.tiny_models import TEXT, released_model, tokenizer

OBJECTIVES = {"encoder": "mlm", "decoder": "clm"}
CURVE = LossCurve((LossPoint(10, 100, 4.5), LossPoint(20, 200, 4.0)), (LossPoint(20, 200, 4.25),), 50.0)
CONTENT = np.array(tokenizer()(f"{TEXT} {TEXT}", add_special_tokens=False)["input_ids"])
CHUNKS = [
    ScoredChunk(np.concatenate(([1], CONTENT[:30])), np.arange(30), CONTENT[:30]),
    ScoredChunk(np.concatenate(([1], CONTENT[30:40])), np.arange(4), CONTENT[30:34]),
]


def trained(kind: str, curve: LossCurve = CURVE, shift: float = 0.0) -> TrainedModel:
    def logits(texts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        with torch.inference_mode():
            return [released_model(kind)(input_ids=text[None]).logits[0] + shift for text in texts]

    return TrainedModel(kind, OBJECTIVES[kind], Path("runs/x"), curve, logits)


@pytest.fixture
def folder(tmp_path: Path, kind: str) -> Path:
    released_model(kind).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_released_folder_is_measured(kind: str, folder: Path) -> None:
    report = report_release(trained(kind), folder, CHUNKS, [CONTENT[:5], CONTENT])
    assert report.released_validation_loss == pytest.approx(score_released(released_model(kind), CHUNKS).loss, rel=1e-6)
    assert report.scored_tokens == 34
    assert report.parameters == released_model(kind).num_parameters()
    assert report.logit_difference < 1e-6
    assert (report.first_loss, report.last_loss, report.validation_loss) == (4.5, 4.0, 4.25)
    assert (report.steps, report.tokens) == (20, 200)
    start = tokenizer().decode(CONTENT[:24])
    if kind == "encoder":
        assert isinstance(report.sample, FilledMask)
        assert report.sample.text.replace("[MASK]", report.sample.hidden) == start
    else:
        assert isinstance(report.sample, Continuation)
        assert report.sample.prompt == start


@pytest.mark.parametrize("kind", ["decoder"])
def test_differing_logits_are_detected(kind: str, folder: Path) -> None:
    report = report_release(trained(kind, shift=0.01), folder, CHUNKS, [CONTENT])
    assert report.logit_difference > 1e-4


@pytest.mark.parametrize("kind", ["encoder"])
def test_run_without_final_validation_is_refused(kind: str, folder: Path) -> None:
    early = LossCurve(CURVE.training, (LossPoint(10, 100, 4.6),), 50.0)
    with pytest.raises(ValueError, match="no validation loss after its last step, 20"):
        report_release(trained(kind, early), folder, CHUNKS, [CONTENT])
