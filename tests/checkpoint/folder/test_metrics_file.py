import json
from pathlib import Path
from typing import Any

import pytest

from megatron_ettin.checkpoint.folder.metrics_file import LossCurve, LossPoint, read_loss_curve


def write_metrics(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def trained(step: int, loss: float, speed: float = 100.0, **more: float) -> dict[str, Any]:
    return {"step": step, "tokens": 50 * step, "loss": loss, "tokens_per_second": speed, **more}


def test_last_record_of_a_repeated_step_counts(tmp_path: Path) -> None:
    metrics = write_metrics(
        tmp_path / "metrics.jsonl",
        trained(10, 5.0, 90.0),
        trained(20, 4.0, 100.0, validation_loss=4.2),
        trained(30, 3.9, 500.0),
        # the run was stopped and resumed from step 20
        trained(30, 3.0, 130.0),
        {"step": 30, "tokens": 1500, "validation_loss": 3.3},
    )
    assert read_loss_curve(metrics) == LossCurve(
        training=(LossPoint(10, 500, 5.0), LossPoint(20, 1000, 4.0), LossPoint(30, 1500, 3.0)),
        validation=(LossPoint(20, 1000, 4.2), LossPoint(30, 1500, 3.3)),
        tokens_per_second=100.0,
    )


def test_file_without_training_loss_is_refused(tmp_path: Path) -> None:
    metrics = write_metrics(tmp_path / "metrics.jsonl", {"step": 0, "tokens": 0, "validation_loss": 7.0})
    with pytest.raises(ValueError, match="no training loss"):
        read_loss_curve(metrics)
