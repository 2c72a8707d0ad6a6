"""Which of the launched processes this is, as torchrun tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from megatron_ettin.config.errors import ConfigError


@dataclass(frozen=True)
class Launch:
    """Number of this process and of all, before any process group."""

    rank: int
    world_size: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Launch:
        """Read RANK and WORLD_SIZE; without them the world is this process.

        Raises:
            ConfigError: they are not numbers, or do not fit together.
        """
        rank, world_size = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
        if not (rank.isdecimal() and world_size.isdecimal() and int(rank) < int(world_size)):
            raise ConfigError(
                f"RANK={rank} WORLD_SIZE={world_size}: must be whole numbers, the rank below the world size"
            )
        return cls(int(rank), int(world_size))
