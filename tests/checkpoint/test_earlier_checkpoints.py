"""Checkpoints written by an earlier version load, and resume with the losses of that version (see fixtures/)."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from megatron_ettin.checkpoint.folder.layout import METRICS_FILE
from tests.helpers.corpora import babble, write_corpus, write_word_tokenizer
from tests.helpers.distributed import run_ranks

FIXTURES = Path(__file__).with_name("fixtures")
OPTIMIZERS = {"mlm": "stable_adamw", "clm": "adamw", "mntp": "muon"}
FLAGS = """
    --data-path corpus --tokenizer-model tokenizer --device cpu --num-layers 2 --hidden-size 8 --ffn-hidden-size 16
    --num-attention-heads 2 --vocab-size 64 --sliding-window 16 --seq-length 64 --split 80,20,0 --micro-batch-size 2
    --global-batch-size 4 --lr 1e-2 --lr-warmup-iters 2 --lr-wsd-decay-iters 2 --attention-output-dropout 0.1
    --eval-interval 0 --log-interval 1 --train-iters 8
"""


def pretrain(folder: str, flags: list[str]) -> int:
    """Run a command line inside ``folder`` and return its exit code."""
    from megatron_ettin.config.command_line import Launch
    from megatron_ettin.pretrain import start

    before = Path.cwd()
    os.chdir(folder)
    try:
        return start(flags, Launch.from_environment(os.environ))
    finally:
        os.chdir(before)


@pytest.mark.parametrize("objective", OPTIMIZERS)
def test_losses_after_the_resume_are_those_of_the_version_that_wrote_it(objective: str, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", babble(60, 64, seed=5))
    write_word_tokenizer(tmp_path / "tokenizer", [f"w{i}" for i in range(59)])
    with tarfile.open(FIXTURES / f"{objective}.tar.xz") as archive:
        archive.extractall(tmp_path / "earlier", filter="data")
    flags = [*FLAGS.split(), "--optimizer", OPTIMIZERS[objective], "--save", "resumed"]
    assert run_ranks(1, pretrain, str(tmp_path), [*flags, "--load", "earlier/step_0000005"]) == [0]
    records = [json.loads(line) for line in (tmp_path / "resumed" / METRICS_FILE).read_text().splitlines()]
    assert [record["step"] for record in records] == [6, 7, 8]
    # Equal to the digit on the machine that wrote them; other CPUs sum in another order.
    expected = json.loads((FIXTURES / "resumed_losses.json").read_text())[objective]
    np.testing.assert_allclose([record["loss"] for record in records], expected, rtol=1e-5)
