"""Short training runs inside a worker, on batches that are the same for every layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from megatron_ettin.config.objectives import mask_kind_of
from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.batch import PackedBatch
from tests.helpers.batches import packed_batch, random_chunks

MICRO_BATCHES = 4


def global_batch(step: int, objective: str, vocab_size: int) -> list[PackedBatch]:
    """Return the four micro-batches of a step, which differ in length and number of scored tokens."""
    rng = np.random.default_rng([step, 7])
    batches = []
    for index in range(MICRO_BATCHES):
        lengths = rng.integers(1, 60, rng.integers(1, 4)).tolist()
        # A skewed distribution, so that there is something to learn.
        chunks = [chunk % (1 + chunk % 17) + 5 for chunk in random_chunks(rng, lengths, vocab_size)]
        batches.append(packed_batch(chunks, causal=objective == "clm", seed=step * 10 + index, pad_multiple=4))
    return batches


def fixed_plan(config: RunConfig) -> Any:
    """Return the plan of a run whose steps have --global-batch-size rows."""
    from megatron_ettin.data.batch_plan import BatchRule, StepPlan

    rule = BatchRule(rows=config.training.global_batch_size, micro_rows=config.training.micro_batch_size)
    return StepPlan(rule, NoSizes())


class NoSizes:
    """Raises if the sizes of rows are used."""

    def tokens(self, start: int, stop: int, *, close_every_chunk: bool) -> Any:
        raise AssertionError


def start_training(config: RunConfig) -> Any:
    """Join the process group and build this rank's Training."""
    from megatron_ettin.runtime.device import choose_device
    from megatron_ettin.runtime.process import start_process
    from megatron_ettin.train.build import build_training

    device = choose_device("cpu")
    ranks = start_process(config, device)
    return build_training(config, mask_kind_of(config.training.objective), device, ranks)


def train_steps(training: Any, steps: range) -> list[Any]:
    """Train on this rank's share of the global batches; return the StepResults."""
    from megatron_ettin.train.step import train_step

    config, ranks = training.config, training.ranks
    results = []
    for step in steps:
        batches = global_batch(step, config.training.objective, config.model.vocab_size)[ranks.dp_rank :: ranks.dp_size]
        if ranks.tp_size > 1 and ranks.pp_size == 1:
            # Collectives of tensor parallelism are slow over gloo, however short: half as many longer micro-batches.
            batches = [joined(*pair) for pair in zip(batches[::2], batches[1::2], strict=True)]
        results.append(train_step(training, batches, learning_rate=config.optimizer.lr))
    return results


def joined(one: PackedBatch, other: PackedBatch) -> PackedBatch:
    """Return one micro-batch of the chunks of two."""
    tokens = len(one.tokens_T)
    return PackedBatch(
        tokens_T=np.concatenate([one.tokens_T, other.tokens_T]),
        positions_T=np.concatenate([one.positions_T, other.positions_T]),
        cu_seqlens=np.concatenate([one.cu_seqlens, other.cu_seqlens[1:] + tokens]),
        scored_K=np.concatenate([one.scored_K, other.scored_K + tokens]),
        labels_K=np.concatenate([one.labels_K, other.labels_K]),
        real_tokens=one.real_tokens + other.real_tokens,
    )


def save_training(save: Path, training: Any, state: Any, tokenizer_files: Mapping[str, bytes] | None = None) -> Path:
    """Write the checkpoint of ``state.step`` synchronously; return its folder."""
    from megatron_ettin.checkpoint.save import attempt_write, commit_checkpoint, stage_checkpoint

    ranks = training.ranks
    staged = stage_checkpoint(save, training.config, state, training.parts)
    return commit_checkpoint(staged, attempt_write(staged, ranks), ranks, tokenizer_files or {})
