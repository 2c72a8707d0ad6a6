"""Losses printed by --eval-only appear in the results."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.console import ProgressConsole
from megatron_ettin.evaluation.results import read_results
from megatron_ettin.evaluation.runner import Outcome, evaluate
from megatron_ettin.evaluation.suite import SuiteOptions
from megatron_ettin.evaluation.suites.intrinsic.suite import SUITE
from tests.evaluation.saved import save_model

LINE = {"objective": "mlm", "validation_loss": 2.5, "masked_accuracy": 0.4, "bits_per_byte": 1.25, "scored_bytes": 9}


def write(data: Path, model: str, name: str, **changes: Any) -> None:
    folder = data / "intrinsic" / model
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({**LINE, "objective": name, **changes}) + "\n")


def run(tmp_path: Path, *models: str) -> list[Outcome]:
    with ProgressConsole(io.StringIO()) as console:
        return evaluate(models, [SUITE], SuiteOptions(tmp_path), tmp_path / "out", console)


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(save_model("encoder", tmp_path / "nano"))


def test_both_objectives_are_in_the_results(tmp_path: Path, model: str) -> None:
    write(tmp_path, "nano", "mlm")
    write(tmp_path, "nano", "clm", bits_per_byte=None, perplexity=12.0)
    outcomes = run(tmp_path, model)
    assert [(o.task, o.error) for o in outcomes] == [("mlm", ""), ("clm", "")]
    [results] = read_results(tmp_path / "out")
    masked, causal = results.suites["intrinsic"]["mlm"], results.suites["intrinsic"]["clm"]
    assert (masked.main, masked.main_measure.value) == ("bits_per_byte", 1.25)
    assert math.isnan(masked.main_measure.low)
    assert masked.details["scored_bytes"] == 9
    assert (causal.main, causal.metrics["perplexity"].value) == ("validation_loss", 12.0), (
        "the number of bytes is unknown"
    )


def test_changed_file_is_read_again(tmp_path: Path, model: str) -> None:
    for bits in (1.25, 1.0):
        write(tmp_path, "nano", "mlm", bits_per_byte=bits)
        [outcome] = run(tmp_path, model)
        assert outcome.result is not None
        assert outcome.result.main_measure.value == bits


def test_invalid_input_is_one_line(tmp_path: Path, model: str) -> None:
    with pytest.raises(ConfigError, match="needs --data"):
        SUITE.build_tasks(SuiteOptions(None))
    with pytest.raises(ConfigError, match=r"there is no .*intrinsic/\*/mlm\.json or clm\.json"):
        SUITE.build_tasks(SuiteOptions(tmp_path))
    write(tmp_path, "other", "mlm")
    with pytest.raises(ConfigError, match=r"--tasks mml: .* mlm and clm; did you mean mlm\?"):
        SUITE.build_tasks(SuiteOptions(tmp_path, ["mml"]))
    assert "--eval-only --objective mlm prints" in run(tmp_path, model)[0].error
    write(tmp_path, "nano", "mlm", objective="clm")
    assert "objective is clm, must be mlm" in run(tmp_path, model)[0].error
    write(tmp_path, "nano", "mlm", validation_loss=None)
    assert "has no validation_loss" in run(tmp_path, model)[0].error
