"""Which rank the others wait for, by how long each works on a step before it has to wait itself."""

from __future__ import annotations

import socket
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed

from megatron_ettin.runtime.device import Device
from megatron_ettin.runtime.ranks import Ranks
from megatron_ettin.train.telemetry.metrics import Record

Part = tuple[int, int]
"""Pipeline stage and tensor-parallel rank: which part of the model."""


@dataclass(frozen=True)
class Work:
    """What one rank did in its median step, which a single pause does not move."""

    part: Part
    own_seconds: float
    """Until it had to wait for other replicas of the model."""
    step_seconds: float
    """From beginning to end."""


@dataclass(frozen=True)
class Straggler:
    """The slowest rank."""

    rank: int
    ratio: float
    """Its own seconds over those of the median rank with the same part of the model."""
    step_share: float
    """Its own seconds over those of the step."""


def slowest(works: Sequence[Work]) -> Straggler | None:
    """Return the rank that is slowest beside those with the same part of the model; None where each has its own.

    Only these have the same to do. Of two the faster one counts as the median.

    Args:
        works: of all ranks, in their order.
    """
    found = None
    for rank, work in enumerate(works):
        peers = [other.own_seconds for other in works if other.part == work.part]
        usual = statistics.median_low(peers)
        if len(peers) == 1 or min(usual, work.step_seconds) <= 0:
            continue
        straggler = Straggler(rank, work.own_seconds / usual, work.own_seconds / work.step_seconds)
        if found is None or straggler.ratio > found.ratio:
            found = straggler
    return found


class Stragglers:
    """Compares the ranks at each record, over the steps since the last one."""

    def __init__(self, ranks: Ranks, device: Device, threshold: float) -> None:
        """Set up.

        Args:
            ranks: this rank.
            device: where ranks exchange figures.
            threshold: ratio from which the slowest rank is told of in words; 0 compares nothing.
        """
        self._ranks, self._device, self._threshold = ranks, device, threshold
        self._compares = threshold > 0 and ranks.dp_size > 1
        self._is_warm = False
        self._own_seconds: list[float] = []
        self._step_seconds: list[float] = []

    def add(self, own_seconds: float, step_seconds: float) -> None:
        """Count a step; the first of a launch also compiles and warms up, and does not count."""
        if self._is_warm and self._compares:
            self._own_seconds.append(own_seconds)
            self._step_seconds.append(step_seconds)
        self._is_warm = True

    def report(self) -> tuple[Record, str]:
        """Return figures of the slowest rank and, from the threshold on, a line about it; collective over the world."""
        if not self._compares or not self._own_seconds:
            return {}, ""
        found = slowest(self._gather())
        self._own_seconds, self._step_seconds = [], []
        if found is None:
            return {}, ""
        figures: Record = {
            "slowest_rank": found.rank,
            "slowest_rank_ratio": round(found.ratio, 4),
            "slowest_rank_step_share": round(found.step_share, 4),
        }
        return figures, self._told(found) if found.ratio >= self._threshold else ""

    def _gather(self) -> list[Work]:
        here, device = self._ranks, self._device.torch_device
        medians = (statistics.median(self._own_seconds), statistics.median(self._step_seconds))
        own = torch.tensor([here.pp_rank, here.tp_rank, *medians], dtype=torch.float64, device=device)
        gathered = [torch.empty_like(own) for _ in range(here.world_size)]
        torch.distributed.all_gather(gathered, own)
        rows = torch.stack(gathered).tolist()
        return [Work((int(stage), int(part)), alone, step) for stage, part, alone, step in rows]

    def _told(self, found: Straggler) -> str:
        """Say which process it is; all ranks have found the same."""
        here = self._ranks
        place = [socket.gethostname(), here.dp_rank]
        torch.distributed.broadcast_object_list(place, src=found.rank, device=self._device.torch_device)
        shared = f", replica {place[1]} of the model" if here.tp_size * here.pp_size > 1 else ""
        return (
            f"slowest rank {found.rank} ({place[0]}{shared}): {found.ratio:.2f} x the median rank's work, "
            f"{found.step_share:.0%} of the step"
        )
