"""A step makes the host wait for its device once, with any optimizer and layout.

On CPUs, reads of tensor values by Python are counted; tests/gpu counts CUDA's synchronisations.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.distributed import run_ranks
from tests.helpers.runs import tiny_run
from tests.helpers.training import global_batch, start_training, train_steps

SHARDED = {"use_distributed_optimizer": True, "overlap_grad_reduce": True, "overlap_param_gather": True}
STABLE = {"optimizer": "stable_adamw", "clip_grad": 0.0}
TP2 = {
    "tensor_model_parallel_size": 2
}  # with sequence parallelism, megatron-core also compares random states on the host


def reads_of_a_step(config: Any) -> tuple[list[str], list[str], bool]:
    """Return the host's reads in a second step and in one that is skipped for a non-finite gradient."""
    from megatron_ettin.train.step import train_step
    from tests.helpers.host_reads import HostReads

    training = start_training(config)
    train_steps(training, range(1))
    reads_of_steps = []
    for scale in (1.0, float("nan")):
        batches = global_batch(1, config.training.objective, config.model.vocab_size)
        weight = next(p for n, p in training.model.named_parameters() if n.endswith("fc2.weight"))
        hook = weight.register_hook(lambda slope, scale=scale: slope * scale)
        with HostReads() as reads:
            result = train_step(training, batches[training.ranks.dp_rank :: training.ranks.dp_size], 1e-3)
        hook.remove()
        reads_of_steps.append(reads.found)
    return reads_of_steps[0], reads_of_steps[1], result.applied


@pytest.mark.parametrize(
    ("world_size", "objective", "settings"),
    [
        (1, "mlm", {}),
        (1, "clm", {"bf16": True, "clip_grad": 0.01}),
        (1, "mlm", {"optimizer": "muon"}),
        (2, "mlm", {**SHARDED, **STABLE, "bf16": True}),
        (2, "mlm", {**TP2, **STABLE}),
        (2, "clm", {"recompute_granularity": "selective"}),
    ],
    ids=["plain", "bf16-clipped", "muon", "sharded-stable-bf16", "tp-stable", "dp-recompute"],
)
def test_a_step_is_read_from_the_device_once(world_size: int, objective: str, settings: dict[str, Any]) -> None:
    for reads, reads_when_skipped, applied in run_ranks(world_size, reads_of_a_step, tiny_run(objective, **settings)):
        assert reads == ["tolist"]
        assert reads_when_skipped == ["tolist"]
        assert not applied


def step_without_scored_tokens(config: Any) -> tuple[bool, float, float]:
    from dataclasses import replace

    from megatron_ettin.train.step import train_step

    training = start_training(config)
    batches = global_batch(0, "mlm", config.model.vocab_size)[training.ranks.dp_rank :: training.ranks.dp_size]
    unscored = [replace(batch, scored_K=batch.scored_K[:0], labels_K=batch.labels_K[:0]) for batch in batches]
    result = train_step(training, unscored, 1e-3)
    return result.applied, result.gradient_norm, result.sums.loss_sum


def test_a_step_without_scored_tokens_is_applied() -> None:
    assert run_ranks(2, step_without_scored_tokens, tiny_run("mlm")) == [(True, 0.0, 0.0)] * 2


def test_every_kind_of_read_is_counted() -> None:
    import torch

    from tests.helpers.host_reads import HostReads

    values = torch.ones(3)
    with HostReads() as reads:
        float(values[0])
        bool(values.sum() > 0)
        values[values > 0]
        values[values > 0] = values.clone()
        values[values > 0] = 1.0
        torch.tensor([[values[0], 2.0]])
        torch.tensor([1, 2], device="cpu")
        (values * 2.0).clamp(min=1).sum()
    scalar = "aten::_local_scalar_dense"
    masked = ["aten::index", "aten::index_put_"]
    assert reads.found == [scalar, scalar, *masked, "tensor of tensors", "tensor onto a device"]
