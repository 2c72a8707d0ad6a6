"""Who this process is among the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed
from megatron.core import parallel_state


@dataclass(frozen=True)
class Ranks:
    """Coordinates of this process in every parallel dimension."""

    rank: int
    world_size: int
    tp_rank: int
    tp_size: int
    pp_rank: int
    pp_size: int
    dp_rank: int
    dp_size: int

    @property
    def is_first_stage(self) -> bool:
        """Whether this rank holds the embedding."""
        return self.pp_rank == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank holds the head and computes the loss."""
        return self.pp_rank == self.pp_size - 1

    @property
    def is_main(self) -> bool:
        """Whether this rank speaks for the run (screen, metrics, JSON files)."""
        return self.rank == 0


def ranks() -> Ranks:
    """Read this process's coordinates; the parallel groups must exist."""
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


def said_by_any(votes: Sequence[bool], device: torch.device) -> list[bool]:
    """Return for each vote whether any rank gave it; collective over the world."""
    counts = torch.tensor(votes, dtype=torch.float32, device=device)
    torch.distributed.all_reduce(counts)
    return [count > 0 for count in counts.tolist()]
