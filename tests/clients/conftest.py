"""One short training of a pair for all clients: from text to released folders, with the project's tools."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.released import KINDS, Kind, Released

ROOT = Path(__file__).resolve().parents[2]
BYTES_OF_TEXT = 2_000_000
TRAIN_ITERS = 100
"""A third of the quickstart's: the clients need weights that differ from their initial values, not good ones."""


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Released:
    """Train a nano encoder and decoder on the standard library's text and export both."""
    pair = Released(tmp_path_factory.mktemp("clients"))
    tokenizer, data = pair.folder / "tokenizer", pair.folder / "data"
    data.mkdir()
    _run_tool("tools/gather_corpus.py", "--output", pair.corpus, "--max-bytes", BYTES_OF_TEXT)
    _run_tool("tools/train_tokenizer.py", "--input", pair.corpus, "--output", tokenizer, "--vocab-size", 4096)
    _run_tool(
        "tools/preprocess_data.py", "--input", pair.corpus, "--output-prefix", data / "corpus",
        "--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", tokenizer,
    )  # fmt: skip
    # One rank each, in parallel: as fast on two cores as two ranks for one after the other.
    _wait(*(_start(*_pretrain(pair, kind, tokenizer, data)) for kind in KINDS))
    _wait(
        *(
            _start("tools/convert_to_hf.py", "--load", pair.checkpoints(kind), "--save", pair.model(kind))
            for kind in KINDS
        )
    )
    return pair


def _pretrain(pair: Released, kind: Kind, tokenizer: Path, data: Path) -> tuple[str | Path | int, ...]:
    return (
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 1, "-m", "megatron_ettin.pretrain",
        "--config", "examples/configs/quickstart.yaml", "--objective", {"encoder": "mlm", "decoder": "clm"}[kind],
        "--data-path", data / "corpus_text_document", "--tokenizer-model", tokenizer, "--save", pair.checkpoints(kind),
        "--train-iters", TRAIN_ITERS, "--lr-wsd-decay-iters", TRAIN_ITERS // 2, "--eval-interval", TRAIN_ITERS,
    )  # fmt: skip


def _run_tool(*arguments: str | Path | int) -> None:
    _wait(_start(*arguments))


def _start(*arguments: str | Path | int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _wait(*processes: subprocess.Popen[str]) -> None:
    """Wait for all processes, and fail with the output of the first that failed."""
    outputs = [process.communicate()[0] for process in processes]
    for process, text in zip(processes, outputs, strict=True):
        assert process.returncode == 0, text[-4000:]
