"""megatron-core's optimizer, made from our config."""

from __future__ import annotations

import math

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer, get_megatron_optimizer
from megatron.core.optimizer import OptimizerConfig as CoreOptimizerConfig
from megatron.core.optimizer.optimizer_config import ParamKey, ParamPredicate
from megatron.core.optimizer_param_scheduler import ParamGroupOverride

from megatron_ettin.config.run import RunConfig


def build_optimizer(run: RunConfig, model_chunks: list[DistributedDataParallel]) -> MegatronOptimizer:
    """Build the optimizer of this rank's stage.

    Args:
        run: resolved config.
        model_chunks: the stage inside megatron-core's data parallelism, in a list of one.

    The learning rate of every step is set on the parameter groups by the step itself.
    """
    optimizer = get_megatron_optimizer(
        core_optimizer_config(run),
        model_chunks,
        config_overrides=_NO_DECAY_ON_VECTORS,
        use_gloo_process_groups=False,
    )
    apply_weight_decay(optimizer, run.optimizer.weight_decay)
    return optimizer


def core_optimizer_config(run: RunConfig) -> CoreOptimizerConfig:
    """Translate the optimizer's settings into megatron-core's words."""
    settings = run.optimizer
    return CoreOptimizerConfig(
        optimizer="adam",
        decoupled_weight_decay=True,
        lr=settings.lr,
        min_lr=settings.min_lr,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2,
        adam_eps=settings.adam_eps,
        # Without a limit core measures no gradient norm; an infinite one measures and never clips.
        clip_grad=settings.clip_grad or math.inf,
        bf16=run.training.bf16,
        params_dtype=torch.bfloat16 if run.training.bf16 else torch.float32,
        use_distributed_optimizer=run.parallel.use_distributed_optimizer,
    )


def apply_weight_decay(optimizer: MegatronOptimizer, weight_decay: float) -> None:
    """Give each parameter group its decay: megatron-core notes a multiplier and leaves the rest to its scheduler."""
    for group in optimizer.param_groups:
        group["weight_decay"] = weight_decay * group["wd_mult"]


def _is_vector(parameter: torch.nn.Parameter) -> bool:
    return parameter.dim() < 2


_NO_DECAY_ON_VECTORS = {ParamKey(predicate=ParamPredicate("vector", _is_vector)): ParamGroupOverride(wd_mult=0.0)}
"""Norm weights and the output bias do not decay; every matrix does, the tied embedding too."""
