"""The two plotting tools, as a user runs them."""

from __future__ import annotations

import json
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from matplotlib.image import imread

from megatron_ettin.checkpoint.folder.metrics_file import read_loss_curve
from tests.helpers.forked import run_script

ROOT = Path(__file__).resolve().parents[2]
BLUE = np.array([0x1F, 0x6F, 0xB4]) / 255


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_script(f"tools/{name}.py", *arguments)


def blue_columns(image: Path) -> np.ndarray:
    """Return for each column of pixels the height of its topmost blue one; -1 if there is none."""
    is_blue = np.abs(imread(image)[..., :3] - BLUE).max(axis=-1) < 0.05
    return np.where(is_blue.any(axis=0), len(is_blue) - is_blue.argmax(axis=0), -1)


def test_schedule_of_a_preset_decays_from_the_peak_to_zero(tmp_path: Path) -> None:
    done = tool("plot_schedule", "--preset", "ettin-17m", "--output", tmp_path / "s.png", "--phases", "extend", "decay")
    assert (done.returncode, done.stderr) == (0, "")
    heights = blue_columns(tmp_path / "s.png")
    drawn = heights[heights >= 0]
    bottom, top = drawn.min(), drawn.max()
    middle = len(drawn) // 2
    assert (drawn[middle - 12 : middle + 12] - bottom).mean() / (top - bottom) == pytest.approx(0.5, abs=0.05)
    assert (np.diff(drawn) <= 1).all()


def test_schedule_without_a_duration_is_refused(tmp_path: Path) -> None:
    done = tool("plot_schedule", "--preset", "nano", "--output", tmp_path / "s.png")
    assert done.returncode == 2
    assert done.stderr == "error: --preset nano: sets no duration, so there is nothing to draw\n"
    assert not (tmp_path / "s.png").exists()


def test_schedule_of_a_config_uses_its_objective(tmp_path: Path) -> None:
    plot_schedule = import_module("tools.plot_schedule")
    drawn: list[tuple[str, list[Any]]] = []
    config = str(ROOT / "examples" / "configs" / "ettin" / "17m_decoder.yaml")
    with patch.object(plot_schedule, "draw_phases", lambda title, curves, path: drawn.append((title, curves))):
        for more in ([], ["--objective", "mlm"]):
            plot_schedule.main(["--config", config, "--phases", "decay", "--output", str(tmp_path / "s.png"), *more])
    (own, [unmasked]), (other, [masked]) = drawn
    assert (own, other) == (f"{config}, clm", f"{config}, mlm")
    assert (unmasked.title, masked.title) == ("decay: 50B tokens\nrows of 7,999", f"{unmasked.title}\n15% masked")


@pytest.mark.parametrize(
    ("name", "source", "output"),
    [("plot_schedule", ("--preset", "ettin-17m"), "folder"), ("plot_run", ("no-run",), "picture.jpg")],
)
def test_output_other_than_png_is_refused(tmp_path: Path, name: str, source: tuple[str, ...], output: str) -> None:
    done = tool(name, *source, "--output", tmp_path / output)
    assert (done.returncode, done.stderr) == (2, f"error: --output: {tmp_path / output} does not end in .png\n")
    assert list(tmp_path.iterdir()) == []


def write_run(folder: Path, level: float) -> Path:
    folder.mkdir()
    lines = [
        {"step": step, "tokens": 100 * step, "loss": level + 1 / step, "tokens_per_second": 9.0}
        for step in range(1, 30)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_several_runs_in_one_figure(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a", 2.0), write_run(tmp_path / "b", 3.0)]
    done = tool("plot_run", runs[0], f"other={runs[1]}", "--output", tmp_path / "two.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert imread(tmp_path / "two.png").shape[1] > 500


def test_missing_runs_and_equal_labels_are_refused(tmp_path: Path) -> None:
    done = tool("plot_run", tmp_path, "--output", tmp_path / "no.png")
    assert (done.returncode, done.stderr) == (2, f"error: RUN {tmp_path}: there is no {tmp_path}/metrics.jsonl\n")
    run = write_run(tmp_path / "a", 2.0)
    done = tool("plot_run", run, run, "--output", tmp_path / "no.png")
    assert "another run has the label a; write LABEL=" in done.stderr


def test_only_a_truncated_last_line_is_skipped(tmp_path: Path) -> None:
    metrics = write_run(tmp_path / "a", 2.0) / "metrics.jsonl"
    with metrics.open("a") as file:
        file.write('{"step": 30, "tok')
    done = tool("plot_run", tmp_path / "a", "--output", tmp_path / "a.png")
    assert (done.returncode, done.stderr) == (0, "")
    for broken in ("[1]\n", '{"step": 3}\n', '{"ste\n'):
        metrics.write_text(broken + '{"step": 4, "tokens": 9, "loss": 1.0, "tokens_per_second": 9.0}\n')
        with pytest.raises(ValueError, match=f"line 1 of {metrics} is not the record of a step"):
            read_loss_curve(metrics)
    done = tool("plot_run", tmp_path / "a", "--output", tmp_path / "b.png")
    assert done.returncode == 2
    assert done.stderr == f"error: RUN {tmp_path / 'a'}: line 1 of {metrics} is not the record of a step\n"
