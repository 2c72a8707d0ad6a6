"""States of the random generators, one set per rank."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from megatron_ettin.runtime.ranks import Ranks

RANDOM_STATE_KEY = "random_state"


def random_state_entry(ranks: Ranks) -> ShardedObject:
    """Return this rank's generators as an entry of a checkpoint; it can be read at the same layout only."""
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
    """Put back what :func:`read_random_state` returned."""
    get_cuda_rng_tracker().set_states(state["tracker"])
    torch.cuda.set_rng_state(state["device"])
    torch.set_rng_state(state["host"])
