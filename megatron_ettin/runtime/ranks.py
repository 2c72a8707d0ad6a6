"""The coordinates of a rank; a plain value that needs neither torch nor megatron-core."""

from __future__ import annotations

from dataclasses import dataclass


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
    def is_last_stage(self) -> bool:
        """Whether this rank has the head and computes the loss."""
        return self.pp_rank == self.pp_size - 1

    @property
    def is_main(self) -> bool:
        """Whether this rank writes for the run (console, metrics, JSON files)."""
        return self.rank == 0
