"""A blend of more sources than a process may open files."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.corpora import write_corpus, write_word_tokenizer

ROOT = Path(__file__).resolve().parents[2]
SOURCES = 400
OPEN_FILES = 200


def limited(*command: str, folder: Path) -> str:
    """Run a command with few descriptors, hard limit included, and return its standard output."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_blend_may_have_more_sources_than_a_process_may_open_files(tmp_path: Path) -> None:
    write_word_tokenizer(tmp_path / "tokenizer", [f"w{i}" for i in range(59)])
    rng = np.random.default_rng(0)
    prefixes = [
        write_corpus(tmp_path / f"s{i}", [[*rng.integers(5, 64, 20), 2] for _ in range(4)]) for i in range(SOURCES)
    ]
    words = [word for prefix in prefixes for word in ("1", prefix)]
    (tmp_path / "blend.yaml").write_text(f"data_path: {json.dumps(words)}\n")
    files = ["--config", "blend.yaml", "--tokenizer-model", "tokenizer", "--device", "cpu"]
    shape = [
        "--num-layers",
        "1",
        "--hidden-size",
        "32",
        "--ffn-hidden-size",
        "32",
        "--num-attention-heads",
        "1",
        "--seq-length",
        "32",
    ]
    steps = [
        "--objective",
        "clm",
        "--train-iters",
        "3",
        "--eval-interval",
        "0",
        "--global-batch-size",
        "4",
        "--split",
        "50,50,0",
        "--save",
        "run",
    ]
    limited("-m", "megatron_ettin.pretrain", *files, *shape, *steps, folder=tmp_path)
    report = json.loads(
        limited("-m", "megatron_ettin.pretrain", "--load", "run", "--eval-only", *files, folder=tmp_path)
    )
    assert len(report["sources"]) == SOURCES
    limited(str(ROOT / "tools" / "export_training_order.py"), "--load", "run", folder=tmp_path)
    assert (tmp_path / "run" / "training_order").is_dir()
