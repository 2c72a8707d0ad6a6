"""Beginning and end of a distributed process."""

from __future__ import annotations

import datetime
import os

import torch
import torch.distributed
from megatron.core import parallel_state

from megatron_ettin.config.run import RunConfig
from megatron_ettin.runtime.collectives import record_collectives
from megatron_ettin.runtime.cpu import install_cpu_placement
from megatron_ettin.runtime.device import Device
from megatron_ettin.runtime.groups import Ranks, ranks
from megatron_ettin.runtime.meeting import World, find_world
from megatron_ettin.runtime.seeds import seed_process
from megatron_ettin.runtime.watchdog import COLLECTIVE_GRACE_SECONDS


def start_process(run: RunConfig, device: Device, world: World | None = None) -> Ranks:
    """Join the process group, build the parallel groups and seed this rank.

    Args:
        run: the run.
        device: where this rank computes.
        world: this rank and the others; by default what torchrun's environment tells.
    """
    if device.type == "cuda":
        record_collectives(run)
    join_world(device, world, timeout_seconds=run.parallel.timeout_seconds + COLLECTIVE_GRACE_SECONDS)
    return build_groups(run)


def join_world(device: Device, world: World | None = None, *, timeout_seconds: float = 600.0) -> None:
    """Initialise torch.distributed for ``device``."""
    # With one hardware queue a collective starts before the work behind it; core's tensor parallelism relies on it.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    if device.type == "cpu":
        install_cpu_placement()
    else:
        torch.cuda.set_device(device.index)
    world = world or find_world(timeout_seconds)
    torch.distributed.init_process_group(
        device.backend,
        store=world.store,
        rank=world.rank,
        world_size=world.size,
        timeout=datetime.timedelta(seconds=timeout_seconds),
    )


def build_groups(run: RunConfig) -> Ranks:
    """Build megatron-core's parallel groups for ``run`` in the current world, replacing any former ones."""
    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=run.parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=run.parallel.pipeline_model_parallel_size,
        distributed_timeout_minutes=(run.parallel.timeout_seconds + COLLECTIVE_GRACE_SECONDS) / 60,
        create_gloo_process_groups=False,
    )
    here = ranks()
    seed_process(run.training.seed, here)
    return here


def end_process() -> None:
    """Leave the process group; safe to call when it was never joined."""
    if not torch.distributed.is_initialized():
        return
    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    torch.distributed.destroy_process_group()
