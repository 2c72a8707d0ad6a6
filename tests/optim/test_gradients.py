"""Norm and clipping of gradients against float64, for each kind of optimizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers.distributed import run_ranks
from tests.helpers.runs import tiny_run
from tests.optim.test_build import gradient

CLIP = 0.75


def clip_step(overrides: dict[str, Any]) -> dict[str, Any]:
    """Clip and apply synthetic gradients; return their norm and the stepped tensors' gradients afterwards."""
    import torch

    from megatron_ettin.optim.gradients import apply_gradients, squared_gradient_norm
    from tests.helpers.training import start_training

    training = start_training(tiny_run("mlm", clip_grad=CLIP, **overrides))
    full = []
    for name, parameter in training.model.named_parameters():
        slope = gradient(name, 0, tuple(parameter.shape)).astype(np.float32)
        parameter.main_grad.copy_(torch.from_numpy(slope))
        full.append(slope.ravel())
    norm = float(squared_gradient_norm(training.optimizer)) ** 0.5
    apply_gradients(training.optimizer, norm)
    after = [tensor.grad.numpy().ravel() for tensor in training.optimizer.get_parameters() if tensor.grad is not None]
    return {"norm": norm, "full": np.concatenate(full), "after": np.concatenate(after)}


@pytest.mark.parametrize(
    ("world_size", "overrides"),
    [(1, {}), (1, {"bf16": True}), (2, {"use_distributed_optimizer": True})],
    ids=["fp32", "bf16", "sharded"],
)
def test_gradients_are_clipped_to_their_global_norm(world_size: int, overrides: dict[str, Any]) -> None:
    results = run_ranks(world_size, clip_step, overrides)
    exact = np.linalg.norm(results[0]["full"].astype(np.float64))
    assert exact > 100 * CLIP
    for result in results:
        assert result["norm"] == pytest.approx(exact, rel=1e-6)
    # Shards have another order than parameters; every value appears once, scaled by the same factor.
    clipped = np.sort(np.concatenate([result["after"] for result in results]).astype(np.float64))
    np.testing.assert_allclose(clipped, np.sort(results[0]["full"].astype(np.float64)) * (CLIP / exact), rtol=1e-5)


def step_below_the_limit(overrides: dict[str, Any]) -> bool:
    import torch

    from megatron_ettin.optim.gradients import apply_gradients, squared_gradient_norm
    from tests.helpers.training import start_training

    training = start_training(tiny_run("mlm", **overrides))
    for parameter in training.model.parameters():
        parameter.main_grad.fill_(1e-3)
    norm = float(squared_gradient_norm(training.optimizer)) ** 0.5
    apply_gradients(training.optimizer, norm)
    return all(bool(torch.all(tensor.grad == 1e-3)) for tensor in training.optimizer.get_parameters())


@pytest.mark.parametrize("limit", [1.0, 0.0], ids=["below the limit", "no limit"])
def test_gradients_below_the_limit_are_unchanged(limit: float) -> None:
    assert run_ranks(1, step_below_the_limit, {"clip_grad": limit}) == [True]
