"""Find the slowest rank by the time each spends on a step before it has to wait for others."""

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
"""The part of the model that a rank computes: pipeline stage and tensor-parallel rank."""


@dataclass(frozen=True)
class Work:
    """Times of one rank in its median step, which a single pause does not affect."""

    part: Part
    own_seconds: float
    """Until it waits for the other replicas of the model."""
    step_seconds: float
    """Of the complete step."""


@dataclass(frozen=True)
class Straggler:
    """The slowest rank."""

    rank: int
    ratio: float
    """Its own seconds over those of the median rank with the same part."""
    step_share: float
    """Its own seconds over those of the step."""


def slowest(works: Sequence[Work]) -> Straggler | None:
    """Return the rank that is slowest relative to the ranks with the same part of the model, which have equal work.

    The median of two is the faster one. Returns None if no two ranks have the same part.

    Args:
        works: of all ranks, by rank.
    """
    worst = None
    for rank, work in enumerate(works):
        peers = [other.own_seconds for other in works if other.part == work.part]
        median = statistics.median_low(peers)
        if len(peers) == 1 or min(median, work.step_seconds) <= 0:
            continue
        straggler = Straggler(rank, work.own_seconds / median, work.own_seconds / work.step_seconds)
        if worst is None or straggler.ratio > worst.ratio:
            worst = straggler
    return worst


class Stragglers:
    """Compares the ranks over the steps between two records."""

    def __init__(self, ranks: Ranks, device: Device, threshold: float) -> None:
        """Set up.

        Args:
            ranks: this rank.
            device: of this rank.
            threshold: ratio from which a line reports the slowest rank; 0 switches the comparison off.
        """
        self._ranks, self._device, self._threshold = ranks, device, threshold
        self._compares = threshold > 0 and ranks.dp_size > 1
        self._is_warm = False
        self._own_seconds: list[float] = []
        self._step_seconds: list[float] = []

    def add(self, own_seconds: float, step_seconds: float) -> None:
        """Add a step; the first one of a launch, which also compiles and warms up, is ignored."""
        if self._is_warm and self._compares:
            self._own_seconds.append(own_seconds)
            self._step_seconds.append(step_seconds)
        self._is_warm = True

    def report(self) -> tuple[Record, str]:
        """Return figures of the slowest rank and, above the threshold, a line on it; collective over the world."""
        if not self._compares or not self._own_seconds:
            return {}, ""
        straggler = slowest(self._gather())
        self._own_seconds, self._step_seconds = [], []
        if straggler is None:
            return {}, ""
        figures: Record = {
            "slowest_rank": straggler.rank,
            "slowest_rank_ratio": round(straggler.ratio, 4),
            "slowest_rank_step_share": round(straggler.step_share, 4),
        }
        return figures, self._describe(straggler) if straggler.ratio >= self._threshold else ""

    def _gather(self) -> list[Work]:
        here, device = self._ranks, self._device.torch_device
        medians = (statistics.median(self._own_seconds), statistics.median(self._step_seconds))
        own = torch.tensor([here.pp_rank, here.tp_rank, *medians], dtype=torch.float64, device=device)
        gathered = [torch.empty_like(own) for _ in range(here.world_size)]
        torch.distributed.all_gather(gathered, own)
        rows = torch.stack(gathered).tolist()
        return [Work((int(stage), int(part)), own_seconds, step) for stage, part, own_seconds, step in rows]

    def _describe(self, straggler: Straggler) -> str:
        """Return a line with the host of the rank; all ranks have found the same one."""
        ranks = self._ranks
        place = [socket.gethostname(), ranks.dp_rank]
        torch.distributed.broadcast_object_list(place, src=straggler.rank, device=self._device.torch_device)
        replica = f", replica {place[1]} of the model" if ranks.tp_size * ranks.pp_size > 1 else ""
        return (
            f"slowest rank {straggler.rank} ({place[0]}{replica}): {straggler.ratio:.2f} x the median rank's work, "
            f"{straggler.step_share:.0%} of the step"
        )
