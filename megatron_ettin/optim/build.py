"""Build megatron-core's optimizer from the config."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer, get_megatron_optimizer
from megatron.core.optimizer import OptimizerConfig as CoreOptimizerConfig
from megatron.core.optimizer.optimizer_config import ParamKey, ParamWithNamePredicate
from megatron.core.optimizer_param_scheduler import ParamGroupOverride

from megatron_ettin.config.run import RunConfig
from megatron_ettin.optim.adamw import FusedAdamW
from megatron_ettin.optim.core_state import single_optimizer
from megatron_ettin.optim.muon import MuonAdamW
from megatron_ettin.optim.parameter_means import ParameterMeans, is_of_vocabulary
from megatron_ettin.optim.stable_adamw import StableAdamW

_CLASSES: Mapping[str, type[FusedAdamW]] = {
    "adamw": FusedAdamW,
    "stable_adamw": StableAdamW,
    "muon": MuonAdamW,
}


def build_optimizer(config: RunConfig, model_chunks: list[DistributedDataParallel]) -> MegatronOptimizer:
    """Build the optimizer of this rank's stage.

    Args:
        config: the resolved config.
        model_chunks: the stage inside megatron-core's data parallelism, in a list of one.

    megatron-core wraps mixed precision, sharding, clipping and checkpoints around an Adam of its own choice, and has no
    hook for another one. So its Adam is replaced before the first step, over the same parameter groups. Building the
    wrappers directly would duplicate how megatron-core finds their process groups and buffers. The learning rate is set
    on the parameter groups in every step.
    """
    optimizer = get_megatron_optimizer(
        core_optimizer_config(config),
        model_chunks,
        config_overrides=_overrides(config.optimizer.optimizer, mixed_types=config.training.widens_residual),
        use_gloo_process_groups=False,
    )
    single = single_optimizer(optimizer)
    (stage,) = model_chunks
    single.optimizer = _build_inner(config, single, stage)
    return optimizer


def core_optimizer_config(config: RunConfig) -> CoreOptimizerConfig:
    """Return the optimizer's settings as megatron-core's config."""
    settings = config.optimizer
    return CoreOptimizerConfig(
        optimizer="adam",
        decoupled_weight_decay=True,
        lr=settings.lr,
        min_lr=settings.min_lr,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2,
        adam_eps=settings.adam_eps,
        # With 0, megatron-core computes no gradient norm; with infinity it computes the norm and never clips.
        clip_grad=settings.clip_grad or math.inf,
        bf16=config.training.bf16,
        params_dtype=torch.bfloat16 if config.training.bf16 else torch.float32,
        use_distributed_optimizer=config.parallel.use_distributed_optimizer,
    )


def _build_inner(config: RunConfig, optimizer: MegatronOptimizer, stage: DistributedDataParallel) -> FusedAdamW:
    """Build the optimizer that steps the tensors of megatron-core's wrapper."""
    settings = config.optimizer
    groups = optimizer.param_groups
    for group in groups:
        # megatron-core stores a multiplier here and leaves the decay to its scheduler.
        group["weight_decay"] = settings.weight_decay * group["wd_mult"]
        group["max_lr"] = settings.max_lr or settings.lr
        group["muon_momentum"] = settings.muon_momentum
    inner = _CLASSES[settings.optimizer].over(groups)
    if isinstance(inner, StableAdamW):
        inner.means = ParameterMeans(stage, optimizer, config.model.vocab_size).means
    return inner


def _overrides(optimizer: str, *, mixed_types: bool) -> dict[ParamKey, ParamGroupOverride]:
    """Return the settings that differ between parameter groups.

    Norm weights and the output bias do not decay; every matrix does, the tied embedding too. megatron-core identifies
    groups by four settings, so two groups must differ in one of them; "decoupled lr" is its name for embedding and
    output.

    Args:
        optimizer: as --optimizer names it.
        mixed_types: norm weights are fp32 next to bf16 parameters. megatron-core 0.16.1 sorts the parameters of a group
            by type when it steps them but not when it saves them, so a group must have one type.
    """
    overrides = {_of("vector"): ParamGroupOverride(wd_mult=0.0)}
    if mixed_types:
        overrides[_of("output bias")] = ParamGroupOverride(wd_mult=0.0, is_decoupled_lr=True)
    else:
        overrides[_of("output bias")] = ParamGroupOverride(wd_mult=0.0)
    if optimizer == "muon":
        overrides[_of("vocabulary")] = ParamGroupOverride(is_decoupled_lr=True)
        overrides[_of("matrix")] = ParamGroupOverride(muon=True)
    return overrides


def _of(kind: str) -> ParamKey:
    return ParamKey(with_name_predicate=ParamWithNamePredicate(kind, lambda value, name: _kind(value, name) == kind))


def _kind(parameter: torch.nn.Parameter, name: str) -> str:
    """Return vector (a norm's weight), output bias, vocabulary (a matrix with a row for each token) or matrix."""
    if parameter.dim() < 2:
        return "output bias" if is_of_vocabulary(name) else "vector"
    return "vocabulary" if is_of_vocabulary(name) else "matrix"
