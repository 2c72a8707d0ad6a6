"""examples/encoder_vs_decoder.sh at reduced length: killed twice, resumed, and compared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ettin.evaluation.models.subject import KINDS

ROOT = Path(__file__).resolve().parents[1]
SUITES = {"classification", "retrieval", "generative", "bias", "intrinsic"}
SHORT = (
    "--seeds 1 --classification-learning-rates 1e-3 --classification-epochs 1 --classification-train-items 64 "
    "--classification-test-items 50 --generative-limit 20 --retrieval-learning-rates 1e-3 --retrieval-max-length 32"
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def start(output: Path) -> subprocess.Popen[bytes]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "examples/encoder_vs_decoder.sh", "--output", str(output), "--tokens", "20000"]
    with (output.parent / "log").open("ab") as log:
        return subprocess.Popen(
            [*command, "--sizes", "0.7m", "--", *SHORT.split()],
            cwd=ROOT,
            env={**os.environ, "PATH": path, "VIRTUAL_ENV": sys.prefix},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def kill_once(reached: Callable[[], bool], output: Path) -> None:
    """Start the script, and kill it with its child processes as soon as the condition holds."""
    script = start(output)
    try:
        while not reached():
            assert script.poll() is None, (output.parent / "log").read_text()[-3000:]
            time.sleep(0.1)
    finally:
        os.killpg(script.pid, signal.SIGKILL)
        script.wait()


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_killed_script_resumes_and_compares_all_kinds(tmp_path: Path) -> None:
    output = tmp_path / "run"
    done, results = output / "0.7m" / "done", output / "results"
    first = results / "encoder-0.7m" / "classification.json"

    kill_once((done / "encoder_decay").exists, output)
    trained = (output / "0.7m" / "encoder" / "decay" / "latest.json").stat().st_mtime_ns
    kill_once(first.exists, output)
    early = read(first)["tasks"]
    script = start(output)
    assert script.wait() == 0, (tmp_path / "log").read_text()[-3000:]

    assert (output / "0.7m" / "encoder" / "decay" / "latest.json").stat().st_mtime_ns == trained
    assert {name: read(first)["tasks"][name] for name in early} == early
    for kind in KINDS:
        folder = results / f"{kind}-0.7m"
        model = read(folder / "model.json")
        assert model["kind"] == kind
        assert model["parameters"] == 720_832
        assert {path.stem for path in folder.glob("*.json")} == SUITES | {"model"}
        assert set(read(folder / "classification.json")["tasks"]) == {"package", "belongs"}
        assert set(read(folder / "generative.json")["tasks"]) == {"word_order", "its_function"}
    report = (output / "comparison" / "report.md").read_text()
    assert all(f"{kind}" in report for kind in KINDS)
    assert (output / "comparison" / "figure1.png").stat().st_size > 10_000
