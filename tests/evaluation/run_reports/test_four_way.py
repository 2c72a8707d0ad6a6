"""The report of the four kinds: its tables, and its figure by the colours of its pixels."""

from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from megatron_ettin.checkpoint.folder.metrics_file import LossCurve, LossPoint
from megatron_ettin.evaluation.run_reports.four_way import FinishedPhase, FourWayModel, draw_four_lines, four_way_text

COLORS = ("#1f6fb4", "#d1495b", "#44bfa3", "#e07b00")


def finished(phase: str, objective: str, start: float) -> FinishedPhase:
    points = tuple(LossPoint(step, 1000 * step, start - 0.1 * step) for step in range(1, 6))
    return FinishedPhase(phase, objective, 5, 5000, LossCurve(points, points, 1.0))


def models() -> list[FourWayModel]:
    encoder, decoder = finished("pretrain", "mlm", 7.0), finished("pretrain", "clm", 6.0)
    phases = {
        "encoder": [encoder],
        "decoder": [decoder],
        "encoder from decoder": [decoder, finished("cross", "mlm", 6.8)],
        "decoder from encoder": [encoder, finished("cross", "clm", 6.6)],
    }
    measured = {
        "mlm": {"validation_loss": 6.123, "masked_accuracy": 0.123},
        "clm": {"validation_loss": 5.75, "perplexity": 314.19},
    }
    return [FourWayModel(name, of_model, measured) for name, of_model in phases.items()]


def test_report_contains_all_four_models_under_both_objectives() -> None:
    lines = four_way_text(models(), "f.png").splitlines()
    assert "| encoder from decoder | mlm | 6.123 | 12.3% | 5.750 | 314.2 |" in lines
    assert sum(line.endswith("| 6.123 | 12.3% | 5.750 | 314.2 |") for line in lines) == 4
    assert "| decoder from encoder | cross | clm | 5 | 5,000 |" in lines
    assert any("(f.png)" in line for line in lines)


def test_each_model_is_drawn_in_both_panels(tmp_path: Path) -> None:
    draw_four_lines(models(), tmp_path / "f.png")
    image = imread(tmp_path / "f.png")[..., :3]
    left, right = np.array_split(image, 2, axis=1)
    for color in COLORS:
        for panel in (left, right):
            assert (np.abs(panel - to_rgb(color)).max(axis=-1) < 0.02).sum() > 20
