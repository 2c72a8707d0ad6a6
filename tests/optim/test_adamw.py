"""FusedAdamW is bit-equal to torch's fused AdamW."""

from __future__ import annotations

from typing import Any

from tests.helpers.distributed import run_ranks


def equals_torch() -> bool:
    import torch

    from megatron_ettin.optim.adamw import FusedAdamW

    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(300, 70, generator=generator), torch.randn(9, generator=generator)]
    ours, theirs = ([torch.nn.Parameter(weight.clone()) for weight in weights] for _ in range(2))
    settings: dict[str, Any] = {"lr": 3e-3, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.1}
    mine, peer = FusedAdamW(ours, **settings), torch.optim.AdamW(theirs, fused=True, **settings)
    for _ in range(5):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        mine.step()
        peer.step()
    return all(map(torch.equal, ours, theirs)) and not torch.equal(ours[0], weights[0])


def test_steps_equal_torch() -> None:
    assert run_ranks(1, equals_torch) == [True]


def step_without_one_gradient() -> bool:
    import torch

    from megatron_ettin.optim.stable_adamw import StableAdamW

    moved, still = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    optimizer = StableAdamW([moved, still], lr=0.1)
    moved.grad = torch.ones(4, 4)
    optimizer.step()
    return bool((moved < 1).all() and (still == 1).all())


def test_tensor_without_gradient_is_not_stepped() -> None:
    assert run_ranks(1, step_without_one_gradient) == [True]
