"""The two plotting tools as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

ROOT = Path(__file__).resolve().parents[2]
BLUE = np.array([0x1F, 0x6F, 0xB4]) / 255


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def blue_columns(picture: Path) -> np.ndarray:
    """Return for each column of pixels the height (from the foot) of its topmost blue one; -1 where there is none."""
    is_blue = np.abs(imread(picture)[..., :3] - BLUE).max(axis=-1) < 0.05
    return np.where(is_blue.any(axis=0), len(is_blue) - is_blue.argmax(axis=0), -1)


def test_schedule_of_a_preset_falls_from_peak_to_half_to_nothing(tmp_path: Path) -> None:
    done = tool("plot_schedule", "--preset", "ettin-17m", "--output", tmp_path / "s.png", "--phases", "extend", "decay")
    assert (done.returncode, done.stderr) == (0, "")
    heights = blue_columns(tmp_path / "s.png")
    drawn = heights[heights >= 0]
    foot, top = drawn.min(), drawn.max()
    middle = len(drawn) // 2
    assert (drawn[middle - 12 : middle + 12] - foot).mean() / (top - foot) == pytest.approx(0.5, abs=0.05)
    assert (np.diff(drawn) <= 1).all()


def test_schedule_of_a_shape_alone_is_refused(tmp_path: Path) -> None:
    done = tool("plot_schedule", "--preset", "nano", "--output", tmp_path / "s.png")
    assert done.returncode == 2
    assert done.stderr == "error: --preset nano: tells no duration, so there is nothing to draw\n"
    assert not (tmp_path / "s.png").exists()


def write_run(folder: Path, level: float) -> Path:
    folder.mkdir()
    lines = [
        {"step": step, "tokens": 100 * step, "loss": level + 1 / step, "tokens_per_second": 9.0}
        for step in range(1, 30)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_runs_in_one_picture(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a", 2.0), write_run(tmp_path / "b", 3.0)]
    done = tool("plot_run", runs[0], f"other={runs[1]}", "--output", tmp_path / "two.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert imread(tmp_path / "two.png").shape[1] > 500


def test_no_run_is_refused(tmp_path: Path) -> None:
    done = tool("plot_run", tmp_path, "--output", tmp_path / "no.png")
    assert (done.returncode, done.stderr) == (2, f"error: RUN {tmp_path}: there is no {tmp_path}/metrics.jsonl\n")
    run = write_run(tmp_path / "a", 2.0)
    done = tool("plot_run", run, run, "--output", tmp_path / "no.png")
    assert "another run is called a; write LABEL=" in done.stderr
