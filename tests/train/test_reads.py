"""A launch with --load reads each of its inputs once in each process."""

from __future__ import annotations

import io
import pkgutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from megatron_ettin.config.run import RunConfig
from tests.helpers.distributed import run_ranks
from tests.helpers.launches import Material, launch, metrics, settings, write_material

READS = {
    "megatron_ettin.train.preflight.checkpoint.open_checkpoint": "folder resolved",
    "megatron_ettin.train.preflight.checkpoint._resume_mode": "mode decided",
    "megatron_ettin.train.preflight.prepare.order_fingerprint": "corpus fingerprinted",
    "megatron_ettin.checkpoint.folder.layout.read_run_json": "run.json read",
    "megatron_ettin.train.resume.read_run_json": "run.json read",
    "megatron_ettin.data.corpus.tokenizer.TokenizerFiles.load": "tokenizer loaded",
}
"""Function, by each name that a launch calls it by -> what it does."""


@contextmanager
def counted(target: str, name: str, counts: Counter[str]) -> Iterator[None]:
    """Count the calls of the function at ``target`` under ``name``."""
    real = pkgutil.resolve_name(target)

    def call(*arguments: Any, **named: Any) -> Any:
        counts[name] += 1
        return real(*arguments, **named)

    with patch(target, call):
        yield


@contextmanager
def opened(path: Path, counts: Counter[str]) -> Iterator[None]:
    """Count how often a file is opened through pathlib."""
    real = io.open

    def call(file: Any, *arguments: Any, **named: Any) -> Any:
        counts[path.name] += str(file) == str(path)
        return real(file, *arguments, **named)

    with patch.object(io, "open", call):
        yield


def launch_counting(config: RunConfig) -> tuple[Counter[str], str]:
    """Launch on this rank; return how often each input was read, and the output."""
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        for target, name in READS.items():
            stack.enter_context(counted(target, name, counts))
        stack.enter_context(opened(Path(config.data.tokenizer_model) / "tokenizer.json", counts))
        return counts, launch(config)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return write_material(tmp_path_factory.mktemp("material"))


def test_a_launch_reads_each_input_once_in_each_process(tmp_path: Path, material: Material) -> None:
    save = tmp_path / "run"
    small: dict[str, Any] = {"save": str(save), "eval_interval": 0, "save_interval": 0}
    run_ranks(2, launch, settings(material, **small, exit_interval=2))
    once = {**dict.fromkeys(READS.values(), 1), "tokenizer.json": 1}
    for steps, load in ((3, save), (4, save / "step_0000003")):
        resumed = settings(material, **small, load=str(load), train_iters=steps)
        (counts, output), (other, _) = run_ranks(2, launch_counting, resumed)
        assert counts == other == once
        assert f"loaded {save}/step_000000{steps - 1}: step {steps - 1}" in output
    assert len(metrics(save)) == 4
    evaluation = settings(material, load=str(save), eval_only=True)
    del once["corpus fingerprinted"]
    assert [counts for counts, _ in run_ranks(2, launch_counting, evaluation)] == [once, once]
