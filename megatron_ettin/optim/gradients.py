"""An optimizer step in two parts, so that what the gradients are may decide whether the second one follows.

megatron-core measures and clips as well, but reads the norm from the device at once, and without Transformer Engine or
apex the norm of every parameter by itself: on a GPU, each of these would wait for the whole backward pass.
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
    """Return the squared global L2 norm of the gradients that a backward pass left, a scalar on their device.

    Collective, and the same on all ranks of a replica. megatron-core's optimizers never refuse a gradient without a
    loss scale, which only fp16 has. Not finite is the norm when any gradient on any rank is not, or when their squares
    leave fp32.
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


class GradientFinalizer:
    """Stands where megatron-core's schedules expect a ``finalize_model_grads_func``.

    megatron-core's own one also divides, but asks the host whether any token was scored, which makes it wait for the
    device in the middle of a step.
    """

    def __init__(self, arrived: Callable[[], None]) -> None:
        """Set up.

        Args:
            arrived: called when this rank has done its own part, before it waits for the others.
        """
        self._arrived = arrived

    def __call__(
        self, stages: list[DistributedDataParallel], scored_tokens: Tensor | None = None, **settings: Any
    ) -> None:
        """Sum the gradients over the ranks and divide them by the scored tokens of the global batch.

        Args:
            stages: this rank's part of the model.
            scored_tokens: those of this rank's micro-batches, an int32 scalar on the device, 0 before the last stage;
                summed up here. Without a single one gradients stay as they are, 0.
            settings: megatron-core's own, handed on.
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
