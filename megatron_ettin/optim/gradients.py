"""Gradient norm, clipping and finalization without waiting for the device in the middle of a step.

The norm and the update are two calls, so that a step can be skipped because of its norm. megatron-core's own clipping
reads the norm from the device at once, and without Transformer Engine or apex one norm per parameter: on a GPU, each
read would wait for the full backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor

from megatron_ettin.optim.core_state import single_optimizer

_CLIP_EPSILON = 1e-6
"""Added to the norm, as in torch and megatron-core."""


@torch.no_grad()
def squared_gradient_norm(optimizer: MegatronOptimizer) -> Tensor:
    """Return the squared global L2 norm of the gradients of a backward pass, a scalar on their device.

    Collective, and equal on all ranks of a replica. The norm is not finite if any gradient on any rank is not finite,
    or if the sum of squares overflows fp32. megatron-core itself checks gradients only with a loss scale, that is, in
    fp16.
    """
    single = single_optimizer(optimizer)
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
    """Clip the gradients to ``--clip-grad`` and step; call :func:`squared_gradient_norm` first.

    Args:
        optimizer: the optimizer of the gradients.
        norm: their global L2 norm.
    """
    shrink = optimizer.config.clip_grad / (norm + _CLIP_EPSILON)
    gradients = [tensor.grad for tensor in optimizer.get_parameters() if tensor.grad is not None]
    if gradients and shrink < 1.0:
        torch._foreach_mul_(gradients, shrink)
    optimizer.step_with_ready_grads()


class GradientFinalizer:
    """The ``finalize_model_grads_func`` of megatron-core's schedules.

    megatron-core's own function divides as well, but checks on the host whether any token was scored, which waits for
    the device in the middle of a step.
    """

    def __init__(self, arrived: Callable[[], None]) -> None:
        """Create the function.

        Args:
            arrived: called when this rank has finished its own part, before it waits for the others.
        """
        self._arrived = arrived

    def __call__(
        self, stages: list[DistributedDataParallel], scored_tokens: Tensor | None = None, **settings: Any
    ) -> None:
        """Sum the gradients over ranks and divide them by the scored tokens of the global batch.

        Args:
            stages: this rank's part of the model.
            scored_tokens: the count of this rank's micro-batches, an int32 scalar on the device, 0 before the last
                stage; summed over ranks in place. If no token is scored, the gradients stay 0.
            settings: passed to megatron-core's function.
        """
        self._arrived()
        finalize_model_grads(stages, None, **settings)
        if scored_tokens is None:
            return
        stage_group = parallel_state.get_pipeline_model_parallel_group()
        last_stage = parallel_state.get_pipeline_model_parallel_last_rank()
        torch.distributed.broadcast(scored_tokens, src=last_stage, group=stage_group)
        torch.distributed.all_reduce(
            scored_tokens, group=parallel_state.get_data_parallel_group(with_context_parallel=True)
        )
        scale = 1.0 / scored_tokens.clamp(min=1)
        for stage in stages:
            stage.scale_gradients(scale)
