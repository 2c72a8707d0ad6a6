"""An optimizer step in two parts, so that what the gradients are may decide whether the second one follows.

megatron-core measures and clips as well, but reads the norm from the device at once, and without Transformer Engine or
apex the norm of every parameter by itself: on a GPU, each of these would wait for the whole backward pass.
"""

from __future__ import annotations

import torch
import torch.distributed
from megatron.core.optimizer import ChainedOptimizer, MegatronOptimizer
from torch import Tensor

_CLIP_EPSILON = 1e-6
"""Added to the norm, as in torch and megatron-core."""


@torch.no_grad()
def squared_gradient_norm(optimizer: MegatronOptimizer) -> Tensor:
    """Return the squared global L2 norm of the gradients that a backward pass left, a scalar on their device.

    Collective, and the same on all ranks of a replica. megatron-core's optimizers never refuse a gradient without a
    loss scale, which only fp16 has. Not finite is the norm when any gradient on any rank is not, or when their squares
    leave fp32.
    """
    assert isinstance(optimizer, ChainedOptimizer)
    (single,) = optimizer.chained_optimizers
    single.prepare_grads()
    gradients = single.get_main_grads_for_grad_norm()
    if gradients:
        square = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))) ** 2.0
    else:
        square = torch.zeros((), device=torch.cuda.current_device())
    torch.distributed.all_reduce(square, group=single.get_grad_stats_parallel_group())
    return square


@torch.no_grad()
def apply_gradients(optimizer: MegatronOptimizer, norm: float) -> None:
    """Clip the gradients to ``--clip-grad`` and make the step; follows :func:`squared_gradient_norm`.

    Args:
        optimizer: whose gradients these are.
        norm: their global norm.
    """
    shrink = optimizer.config.clip_grad / (norm + _CLIP_EPSILON)
    gradients = [tensor.grad for tensor in optimizer.get_parameters() if tensor.grad is not None]
    if gradients and shrink < 1.0:
        torch._foreach_mul_(gradients, shrink)
    optimizer.step_with_ready_grads()
