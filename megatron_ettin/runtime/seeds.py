"""Random states of a process."""

from __future__ import annotations

import numpy as np
import torch
from megatron.core import tensor_parallel

from megatron_ettin.runtime.groups import Ranks


def seed_process(seed: int, ranks: Ranks) -> None:
    """Seed every generator that training draws from (dropout is the only thing that does).

    Ranks that hold the same activations (tensor-parallel ones outside sequence parallelism) get the same default state
    and megatron-core's tracker gives them different ones inside; data-parallel ranks and stages all differ.
    Weights, order and masks do not come from here: they are functions of the seed and a name or number.
    """
    mixed = np.random.SeedSequence([seed, ranks.pp_rank, ranks.dp_rank]).generate_state(1)[0]
    local_seed = int(mixed) & 0x3FFF_FFFF
    torch.manual_seed(local_seed)
    tensor_parallel.model_parallel_cuda_manual_seed(local_seed, force_reset_rng=True)
