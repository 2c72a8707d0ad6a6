"""The optimizer of a run, built by megatron-core."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer, get_megatron_optimizer
from megatron.core.optimizer.optimizer_config import OptimizerConfig as CoreOptimizerConfig

from megatron_ettin.config.run import RunConfig


def build_optimizer(run: RunConfig, chunks: Sequence[DistributedDataParallel]) -> MegatronOptimizer:
    """Build AdamW with decoupled weight decay on matrices only.

    Args:
        run: resolved config.
        chunks: the model inside megatron-core's data parallelism.
    """
    settings = run.optimizer
    core = CoreOptimizerConfig(
        optimizer="adam",
        lr=settings.lr,
        min_lr=settings.min_lr,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2,
        adam_eps=settings.adam_eps,
        # Without clipping core reports no gradient norm; an infinite limit measures and never clips.
        clip_grad=settings.clip_grad or math.inf,
        bf16=run.training.bf16,
        params_dtype=torch.bfloat16 if run.training.bf16 else torch.float32,
        use_distributed_optimizer=run.parallel.use_distributed_optimizer,
    )
    optimizer = get_megatron_optimizer(core, list(chunks), use_gloo_process_groups=False)
    for group in optimizer.param_groups:
        # Core leaves this to its scheduler, which we do not use: wd_mult is 0 for one-dimensional parameters.
        group["weight_decay"] = settings.weight_decay * group["wd_mult"]
    return optimizer
