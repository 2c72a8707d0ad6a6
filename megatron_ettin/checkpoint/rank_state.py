"""What one rank brings to a checkpoint: its model, optimizer and random generators, and its place among the ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from megatron.core.transformer.module import MegatronModule

from megatron_ettin.checkpoint.folder.state import ParallelLayout
from megatron_ettin.runtime.device import Device
from megatron_ettin.runtime.ranks import Ranks

RANDOM_STATE_KEY = "random_state"


@dataclass(frozen=True)
class TrainedParts:
    """The objects of one rank whose state a checkpoint stores, and where they live."""

    model: MegatronModule
    """This rank's pipeline stage, without its wrappers."""
    optimizer: MegatronOptimizer
    ranks: Ranks
    device: Device

    @property
    def layout(self) -> ParallelLayout:
        """The layout of all ranks, as ``run.json`` stores it."""
        ranks = self.ranks
        return ParallelLayout(self.device.type, ranks.tp_size, ranks.pp_size, ranks.dp_size)


def random_state_entry(ranks: Ranks) -> ShardedObject:
    """Return this rank's random states as an entry of a checkpoint; only the same layout can read it."""
    return ShardedObject(
        RANDOM_STATE_KEY,
        read_random_state(),
        global_shape=(ranks.pp_size, ranks.tp_size, ranks.dp_size),
        global_offset=(ranks.pp_rank, ranks.tp_rank, ranks.dp_rank),
    )


def read_random_state() -> dict[str, Any]:
    """Return the states of torch's generators and of megatron-core's tracker."""
    return {
        "host": torch.get_rng_state(),
        "device": torch.cuda.get_rng_state(),
        "tracker": get_cuda_rng_tracker().get_states(),
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`read_random_state` returned."""
    get_cuda_rng_tracker().set_states(state["tracker"])
    torch.cuda.set_rng_state(state["device"])
    torch.set_rng_state(state["host"])
