"""An optimizer step in two parts, so that what the gradients are may decide whether the second one follows."""

from __future__ import annotations

import torch
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32


@torch.no_grad()
def gradient_norm(optimizer: MegatronOptimizer) -> float:
    """Return the global norm of the gradients that a backward pass left; collective, and the same on all ranks.

    megatron-core's optimizers never refuse a gradient without a loss scale, which only fp16 has: with a norm that is
    not finite, clipping does nothing and the step is made. Not finite is the norm when any gradient on any rank is not,
    or when their squares leave fp32.
    """
    optimizer.prepare_grads()
    return float(optimizer.get_grad_norm())


@torch.no_grad()
def apply_gradients(optimizer: MegatronOptimizer, norm: float) -> None:
    """Clip the gradients to ``--clip-grad`` and make the step; follows :func:`gradient_norm`, which gave ``norm``."""
    parameters = optimizer.get_parameters()
    if parameters:
        clip_grad_by_total_norm_fp32(parameters, max_norm=optimizer.config.clip_grad, total_norm=norm)
    optimizer.step_with_ready_grads()
