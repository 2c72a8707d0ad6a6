"""How often a step makes the host wait for its device: once, whatever the optimizer and however ranks share the work.

On CPUs this is counted by what Python reads; tests/gpu asks CUDA itself.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.distributed import run_ranks
from tests.helpers.runs import tiny_run
from tests.helpers.training import global_batch, start_training, train_steps

SHARDED = {"use_distributed_optimizer": True, "overlap_grad_reduce": True, "overlap_param_gather": True}
STABLE = {"optimizer": "stable_adamw", "clip_grad": 0.0}
TP2 = {"tensor_model_parallel_size": 2}  # with sequence parallelism core also compares random states, on the host


def reads_of_a_step(run: Any) -> tuple[list[str], list[str], bool]:
    """What the host reads in a second step, and in one that is skipped for a gradient that is not finite."""
    from megatron_ettin.train.step import train_step
    from tests.helpers.host_reads import HostReads

    training = start_training(run)
    train_steps(training, range(1))
    found = []
    for scale in (1.0, float("nan")):
        batches = global_batch(1, run.training.objective, run.model.vocab_size)
        weight = next(p for n, p in training.model.named_parameters() if n.endswith("fc2.weight"))
        hook = weight.register_hook(lambda slope, scale=scale: slope * scale)
        with HostReads() as reads:
            result = train_step(training, batches[training.ranks.dp_rank :: training.ranks.dp_size], 1e-3)
        hook.remove()
        found.append(reads.found)
    return found[0], found[1], result.applied


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


def step_without_scored_tokens(run: Any) -> tuple[bool, float, float]:
    from dataclasses import replace

    from megatron_ettin.train.step import train_step

    training = start_training(run)
    batches = global_batch(0, "mlm", run.model.vocab_size)[training.ranks.dp_rank :: training.ranks.dp_size]
    bare = [replace(batch, scored_K=batch.scored_K[:0], labels_K=batch.labels_K[:0]) for batch in batches]
    result = train_step(training, bare, 1e-3)
    return result.applied, result.gradient_norm, result.sums.loss_sum


def test_a_step_without_scored_tokens_divides_by_nothing() -> None:
    assert run_ranks(2, step_without_scored_tokens, tiny_run("mlm")) == [(True, 0.0, 0.0)] * 2


def test_counting_finds_what_waits() -> None:
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
