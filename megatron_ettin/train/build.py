"""Build the model, its data-parallel wrapper and the optimizer of a rank."""

from __future__ import annotations

from dataclasses import dataclass

from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_ettin.checkpoint.rank_state import TrainedParts
from megatron_ettin.config.objectives import MaskKind
from megatron_ettin.config.run import RunConfig
from megatron_ettin.model.core_config import build_core_config
from megatron_ettin.model.ettin import EttinModel
from megatron_ettin.model.initialization import initialize_weights
from megatron_ettin.model.norm import restore_norm_types
from megatron_ettin.optim.build import build_optimizer
from megatron_ettin.optim.gradients import GradientFinalizer
from megatron_ettin.runtime.device import Device
from megatron_ettin.runtime.performance import Stopwatch
from megatron_ettin.runtime.ranks import Ranks


@dataclass
class Training:
    """Everything that a step needs, built once."""

    config: RunConfig
    device: Device
    ranks: Ranks
    core_config: TransformerConfig
    model: EttinModel
    """This rank's pipeline stage without wrappers, for checkpoints and inspection."""
    wrapped: DistributedDataParallel
    """The same stage in megatron-core's data parallelism, for training."""
    optimizer: MegatronOptimizer
    stopwatch: Stopwatch
    """Measures this rank's part of a step, up to its wait for the other ranks."""

    @property
    def parts(self) -> TrainedParts:
        """What a checkpoint stores and restores."""
        return TrainedParts(self.model, self.optimizer, self.ranks, self.device)


def build_training(config: RunConfig, mask_kind: MaskKind, device: Device, ranks: Ranks) -> Training:
    """Build model, data parallelism and optimizer of this rank, with newly initialised weights.

    Args:
        config: the resolved config, with its vocabulary size.
        mask_kind: the objective's attention mask.
        device: of this rank.
        ranks: this rank's coordinates; the parallel groups must exist.
    """
    core_config = build_core_config(config)
    model = build_model(config, core_config, mask_kind, device, ranks)
    wrapped = DistributedDataParallel(
        config=core_config,
        ddp_config=DistributedDataParallelConfig(
            grad_reduce_in_fp32=True,
            use_distributed_optimizer=config.parallel.use_distributed_optimizer,
            overlap_grad_reduce=config.parallel.overlap_grad_reduce,
            overlap_param_gather=config.parallel.overlap_param_gather,
        ),
        module=_in_half_precision(core_config, model) if config.training.bf16 else model,
    )
    optimizer = build_optimizer(config, [wrapped])
    stopwatch = Stopwatch(device)
    core_config.finalize_model_grads_func = GradientFinalizer(stopwatch.arrive)
    if config.parallel.overlap_grad_reduce:
        # Only the backward pass of the last micro-batch may start the reduction of gradients.
        core_config.no_sync_func = wrapped.no_sync
    core_config.grad_scale_func = optimizer.scale_loss
    return Training(config, device, ranks, core_config, model, wrapped, optimizer, stopwatch)


def _in_half_precision(core_config: TransformerConfig, model: EttinModel) -> Float16Module:
    """Return the model in bf16, its norms in the type of the residual stream."""
    module = Float16Module(core_config, model)
    restore_norm_types(model, core_config)
    return module


def build_model(
    config: RunConfig, core_config: TransformerConfig, mask_kind: MaskKind, device: Device, ranks: Ranks
) -> EttinModel:
    """Build this rank's pipeline stage on its device and initialise its weights."""
    model = EttinModel(
        core_config,
        config.model,
        config.parallel,
        mask_kind,
        pp_rank=ranks.pp_rank,
        transformer_impl=config.backend.transformer_impl,
    )
    model.to(device.torch_device)
    initialize_weights(model, config.model, config.training.seed)
    return model
