"""The quickstart as a new user runs it, and its output."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("encoder", "decoder")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, "PATH": path, "VIRTUAL_ENV": sys.prefix, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the script once; return its folder and what it printed."""
    output = tmp_path_factory.mktemp("quickstart") / "out"
    done = run("bash", "examples/quickstart.sh", "--output", output)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return output, done.stdout


def report_of(output: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((output / "report.json").read_text())
    return report


def test_both_models_learned(quickstart: tuple[Path, str]) -> None:
    output, printed = quickstart
    report = report_of(output)
    assert report["problems"] == []
    for model in report["models"]:
        assert model["validation_loss"] < report["unigram_entropy"] - 0.3
        assert f"{model['validation_loss']:.3f}" in printed
    assert f"{report['unigram_entropy']:.3f}" in printed


def test_all_output_is_written(quickstart: tuple[Path, str]) -> None:
    output, _ = quickstart
    assert (output / "loss.png").read_bytes().startswith(b"\x89PNG")
    for kind in KINDS:
        assert list((output / kind / "tensorboard").glob("events.out.tfevents.*"))
        assert (output / kind / "hf" / "model.safetensors").is_file()
        assert len(list(output.glob(f"{kind}/step_*/complete.json"))) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_run_is_resumed_at_its_last_step(quickstart: tuple[Path, str], kind: str) -> None:
    output, printed = quickstart
    steps = [json.loads(line)["step"] for line in (output / kind / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert f"loaded {output / kind}/step_0000120" in printed
    assert {120, 240} <= set(steps)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluating_the_checkpoint_on_one_rank_gives_the_reported_loss(quickstart: tuple[Path, str], kind: str) -> None:
    output, _ = quickstart
    done = run(
        sys.executable, "-m", "megatron_ettin.pretrain", "--config", "examples/configs/quickstart.yaml", "--eval-only",
        "--load", output / kind,
        "--data-path", output / "data" / "corpus_text_document", "--tokenizer-model", output / "tokenizer",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    evaluation = json.loads(done.stdout.splitlines()[-1])
    (model,) = (model for model in report_of(output)["models"] if model["name"] == kind)
    assert evaluation["validation_loss"] == pytest.approx(model["validation_loss"], rel=1e-6)
    assert evaluation["scored_tokens"] == model["scored_tokens"]


def test_model_that_did_not_learn_fails_the_report(quickstart: tuple[Path, str], tmp_path: Path) -> None:
    output, _ = quickstart
    for kind in KINDS:
        shutil.copytree(output / kind, tmp_path / kind)
    metrics = tmp_path / "decoder" / "metrics.jsonl"
    *earlier, last = metrics.read_text().splitlines()
    entropy = report_of(output)["unigram_entropy"]
    metrics.write_text("\n".join([*earlier, json.dumps(json.loads(last) | {"validation_loss": entropy - 0.29})]))

    done = run(
        sys.executable, "tools/report_pair.py", "--encoder", tmp_path / "encoder", "--decoder", tmp_path / "decoder",
        "--output", tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "error: decoder: validation loss" in done.stdout
    assert report_of(tmp_path)["problems"]
