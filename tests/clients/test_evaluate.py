"""Trained and released models, from the command line to the results: bias, and losses measured by the trainer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_ettin.evaluation.results import read_results
from tests.clients.released import KINDS, Released
from tests.evaluation.suites.bias.test_winogender import write_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str | Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def measured(released: Released, kind: Any, objective: str) -> str:
    """Return the line that --eval-only prints for a checkpoint under an objective."""
    output = run(
        "-m", "megatron_ettin.pretrain", "--load", released.checkpoints(kind), "--eval-only", "--objective", objective,
        "--data-path", released.folder / "data" / "corpus_text_document",
        "--tokenizer-model", released.folder / "tokenizer",
    )  # fmt: skip
    return output.splitlines()[-1]


def test_from_checkpoints_to_results(released: Released, tmp_path: Path) -> None:
    data, models = tmp_path / "data", {kind: released.model(kind) for kind in KINDS}
    write_files(data / "bias")
    for kind, model in models.items():
        for objective in ("mlm", "clm"):
            place = data / "intrinsic" / (model.parent.name if model.name == "hf" else model.name)
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{objective}.json").write_text(measured(released, kind, objective))
    flags = ("--suite", "all", "--data", data, "--output", tmp_path / "out", "--device", "cpu")
    table = run("tools/evaluate.py", "--model", *models.values(), *flags)
    assert "failed" not in table
    by_kind = {results.model["kind"]: results.suites for results in read_results(tmp_path / "out")}
    assert set(by_kind) == {"encoder", "decoder"}
    for suites in by_kind.values():
        shares = [suites["bias"]["winogender"].metrics[gender].value for gender in ("male", "female", "neutral")]
        assert sum(shares) == pytest.approx(1)
    bits = {
        kind: {task: r.metrics["bits_per_byte"].value for task, r in s["intrinsic"].items()}
        for kind, s in by_kind.items()
    }
    assert bits["encoder"]["mlm"] < bits["decoder"]["mlm"]
    assert bits["decoder"]["clm"] < bits["encoder"]["clm"]
    assert 1 < bits["decoder"]["clm"] < 8, "below the cost of uniform guesses of bytes"
    before = json.dumps({kind: str(s) for kind, s in by_kind.items()})
    assert run("tools/evaluate.py", "--model", *models.values(), *flags) == table
    assert before == json.dumps({r.model["kind"]: str(r.suites) for r in read_results(tmp_path / "out")})
