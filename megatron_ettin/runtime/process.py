"""Start and end of a distributed process: join the world, build the parallel groups, seed, leave."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed
from megatron.core import parallel_state, tensor_parallel

from megatron_ettin.config.run import RunConfig
from megatron_ettin.runtime.cpu_placement import install_cpu_placement
from megatron_ettin.runtime.device import Device
from megatron_ettin.runtime.health.flight_recorder import record_collectives
from megatron_ettin.runtime.health.rendezvous import World, find_world
from megatron_ettin.runtime.health.watchdog import COLLECTIVE_GRACE_SECONDS
from megatron_ettin.runtime.ranks import Ranks


def start_process(config: RunConfig, device: Device, world: World | None = None) -> Ranks:
    """Join the process group, build the parallel groups and seed this rank.

    Args:
        config: the run.
        device: where this rank computes.
        world: this rank and its store; by default from torchrun's environment.
    """
    if device.type == "cuda":
        record_collectives(config)
    join_world(device, world, timeout_seconds=config.parallel.timeout_seconds + COLLECTIVE_GRACE_SECONDS)
    return build_groups(config)


def join_world(device: Device, world: World | None = None, *, timeout_seconds: float = 600.0) -> None:
    """Initialise torch.distributed for ``device``."""
    # With one hardware queue, a collective starts before kernels queued later; tensor parallelism relies on it.
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


def build_groups(config: RunConfig) -> Ranks:
    """Build megatron-core's parallel groups in the current world, replacing any previous ones."""
    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=config.parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=config.parallel.pipeline_model_parallel_size,
        distributed_timeout_minutes=(config.parallel.timeout_seconds + COLLECTIVE_GRACE_SECONDS) / 60,
        create_gloo_process_groups=False,
    )
    ranks = _read_ranks()
    seed_process(config.training.seed, ranks)
    return ranks


def end_process() -> None:
    """Leave the process group; does nothing if it was never joined."""
    if not torch.distributed.is_initialized():
        return
    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    torch.distributed.destroy_process_group()


def seed_process(seed: int, ranks: Ranks) -> None:
    """Seed every generator that training draws from; only dropout does.

    Ranks with the same activations (tensor-parallel ranks outside sequence parallelism) get the same default state, and
    megatron-core's tracker gives them different ones inside; data-parallel ranks and stages all differ. Weights, data
    order and masks have their own generators, seeded by the run's seed and a name or number.
    """
    mixed = np.random.SeedSequence([seed, ranks.pp_rank, ranks.dp_rank]).generate_state(1)[0]
    local_seed = int(mixed) & 0x3FFF_FFFF
    torch.manual_seed(local_seed)
    tensor_parallel.model_parallel_cuda_manual_seed(local_seed, force_reset_rng=True)


def any_rank(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """Return for each flag whether any rank set it; collective over the world."""
    counts = torch.tensor(flags, dtype=torch.float32, device=device)
    torch.distributed.all_reduce(counts)
    return [count > 0 for count in counts.tolist()]


def _read_ranks() -> Ranks:
    return Ranks(
        rank=torch.distributed.get_rank(),
        world_size=torch.distributed.get_world_size(),
        tp_rank=parallel_state.get_tensor_model_parallel_rank(),
        tp_size=parallel_state.get_tensor_model_parallel_world_size(),
        pp_rank=parallel_state.get_pipeline_model_parallel_rank(),
        pp_size=parallel_state.get_pipeline_model_parallel_world_size(),
        dp_rank=parallel_state.get_data_parallel_rank(),
        dp_size=parallel_state.get_data_parallel_world_size(),
    )
