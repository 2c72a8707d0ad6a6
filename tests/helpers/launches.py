"""Whole launches on a small corpus, inside a worker, and what they leave on disk."""

from __future__ import annotations

import contextlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megatron_ettin.checkpoint.folder.layout import METRICS_FILE, resolve_checkpoint
from megatron_ettin.config.command_line import Command
from megatron_ettin.config.run import RunConfig, run_options
from megatron_ettin.convert.checkpoint_reader import CheckpointReader
from megatron_ettin.convert.tensor_names import tensor_names
from megatron_ettin.train.preflight.prepare import PreparedRun, prepare_run
from tests.helpers.corpora import babble, write_corpus, write_word_tokenizer
from tests.helpers.runs import TINY, tiny_run


@dataclass(frozen=True)
class Material:
    """A corpus and its tokenizer."""

    data_path: str
    tokenizer_model: str


def write_material(folder: Path) -> Material:
    """Write a corpus of 120 short documents for the tiny model."""
    tokenizer = write_word_tokenizer(folder / "tokenizer", [f"word{i}" for i in range(TINY.vocab_size - 5)])
    documents = [document.tolist() for document in babble(120, TINY.vocab_size)]
    return Material(write_corpus(folder / "corpus", documents), str(tokenizer))


def settings(material: Material, objective: str = "mlm", **overrides: Any) -> RunConfig:
    """Return a run of eight steps of the tiny model, with dropout, validation and checkpoints."""
    small: dict[str, Any] = {
        "micro_batch_size": 2,
        "global_batch_size": 4,
        "train_iters": 8,
        "log_interval": 1,
        "split": "80,20,0",
    }
    small |= {"eval_interval": 3, "save_interval": 4, "attention_output_dropout": 0.1, "lr_warmup_iters": 2}
    small |= {"data_path": material.data_path, "tokenizer_model": material.tokenizer_model}
    return tiny_run(objective, **(small | overrides))


def prepare(config: RunConfig, world_size: int = 1) -> PreparedRun:
    """Return what preflight makes of a command line that sets every field of ``config``."""
    return prepare_run(Command(config, given=dict.fromkeys(run_options(), "")), world_size)


def launch(config: RunConfig) -> str:
    """Launch a run on this rank and return what it wrote to standard output."""
    from megatron_ettin.train.run import run

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run(prepare(config, int(os.environ["WORLD_SIZE"]))) == 0
    return out.getvalue()


THROUGHPUT = ("tokens_per_second", "model_flops_per_second", "mfu", "data_wait_share", "memory_bytes")
SLOWEST = ("slowest_rank", "slowest_rank_ratio", "slowest_rank_step_share")


def metrics(save: Path) -> list[dict[str, Any]]:
    """Return the records of metrics.jsonl without throughput and memory, which differ between any two runs."""
    records = [json.loads(line) for line in (save / METRICS_FILE).read_text().splitlines()]
    for record in records:
        throughput = {name: record.pop(name) for name in THROUGHPUT}
        for name in SLOWEST:
            record.pop(name, None)
        assert throughput["tokens_per_second"] > 0
        assert throughput["mfu"] > 0
        assert 0 <= throughput["data_wait_share"] <= 1
        assert throughput["memory_bytes"] > 10_000_000, "a process with torch takes more"
    return records


def assert_same_weights(one: Path, other: Path) -> None:
    """Compare the weights of the latest checkpoints of two runs bit for bit."""
    readers = [CheckpointReader(resolve_checkpoint(save)) for save in (one, other)]
    for name in tensor_names("mlm", TINY):
        first, second = (reader.tensor(name.canonical) for reader in readers)
        assert torch.equal(first, second), name.canonical
