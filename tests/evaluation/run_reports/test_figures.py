"""Loss figures, by the colours of their pixels."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from megatron_ettin.checkpoint.folder.metrics_file import LossCurve, LossPoint
from megatron_ettin.evaluation.run_reports.figures import draw_losses


def falling(start: float) -> LossCurve:
    points = tuple(LossPoint(step, 1000 * step, start - 0.2 * step) for step in range(1, 11))
    return LossCurve(points, points[::5], 100.0)


def pixels_of(image: np.ndarray, color: str) -> int:
    return int((np.abs(image[..., :3] - to_rgb(color)).max(axis=-1) < 0.02).sum())


def test_every_run_and_level_has_its_colour(tmp_path: Path) -> None:
    draw_losses({"encoder": falling(7.0), "decoder": falling(6.0)}, tmp_path / "two.png", levels={"unigram": 6.5})
    draw_losses({"encoder": falling(7.0)}, tmp_path / "one.png")
    two, one = imread(tmp_path / "two.png"), imread(tmp_path / "one.png")
    assert pixels_of(two, "#1f6fb4") > 100
    assert pixels_of(two, "#d1495b") > 100
    assert pixels_of(one, "#d1495b") == 0
    assert pixels_of(two, "#e07b00") > 100
    assert pixels_of(one, "#e07b00") == 0


def test_more_runs_than_colours_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="7 runs"):
        draw_losses({str(i): falling(5.0) for i in range(7)}, tmp_path / "many.png")
    assert not (tmp_path / "many.png").exists()
