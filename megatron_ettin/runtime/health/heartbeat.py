"""What a rank tells the others about itself, and which rank a stall is laid to."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

WAITS_IN = ("/torch/distributed/", "/megatron/core/distributed/", "/megatron/core/pipeline_parallel/")
"""Whoever's innermost Python frame is in one of these waits for other ranks, or sends them something."""


@dataclass(frozen=True)
class Beat:
    """One rank's word, renewed every few seconds by a thread of its own."""

    rank: int
    host: str
    pid: int
    count: int
    """Rises while the process runs."""
    step: int
    """The one under way, 1-based."""
    work: str
    """What the main thread does, as training."""
    marks: int
    """How often the main thread has told of new work: who has fewer is behind."""
    waits: bool
    """Whether the main thread waits for other ranks."""
    place: str
    """Where in the source the main thread is."""

    def encoded(self) -> str:
        """Return the text that is put into the store."""
        return json.dumps(asdict(self))

    @classmethod
    def decoded(cls, text: bytes | str) -> Beat:
        """Return what :meth:`encoded` was made from."""
        return cls(**json.loads(text))

    @property
    def person(self) -> str:
        """Return which process it is, as people look for it."""
        return f"rank {self.rank} (process {self.pid} on {self.host})"


@dataclass(frozen=True)
class Place:
    """Where a thread stands."""

    source: str
    """The innermost frame of this package, else the innermost of all."""
    waits: bool
    key: tuple[int, int]
    """The same while the thread has not moved."""


def place_of(thread: int) -> Place:
    """Return where a thread stands, by its identifier."""
    innermost = sys._current_frames().get(thread)
    if innermost is None:
        return Place("nowhere", waits=False, key=(0, 0))
    frame: FrameType | None = innermost
    while frame is not None and "/megatron_ettin/" not in frame.f_code.co_filename:
        frame = frame.f_back
    shown = frame or innermost
    waits = any(part in innermost.f_code.co_filename for part in WAITS_IN)
    return Place(_source(shown), waits, (id(innermost), innermost.f_lasti))


def _source(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    return f"{path.parent.name}/{path.name}:{frame.f_lineno}, {frame.f_code.co_name}"


def silent_ranks(earlier: Mapping[int, Beat], later: Mapping[int, Beat]) -> list[Beat]:
    """Return the last words of the ranks that said nothing new between two readings: stopped, gone or cut off."""
    return [beat for rank, beat in sorted(later.items()) if rank in earlier and beat.count == earlier[rank].count]


def late_ranks(beats: Mapping[int, Beat]) -> list[Beat]:
    """Return the ranks that the others wait for, of those that are alive; [] where nothing sets any apart."""
    least = min(beat.marks for beat in beats.values())
    behind = [beat for _, beat in sorted(beats.items()) if beat.marks == least]
    busy = [beat for beat in behind if not beat.waits]
    found = busy or behind
    return found if len(found) < len(beats) else []


def verdict(silent: list[Beat], beats: Mapping[int, Beat]) -> str:
    """Return, in a few words, whose fault a stall is."""
    if silent:
        return "; ".join(f"{b.person} does not answer, last heard of at step {b.step}, {b.work}" for b in silent[:_FEW])
    late = late_ranks(beats)
    if late:
        return "; ".join(f"{b.person} is late: step {b.step}, {b.work}, at {b.place}" for b in late[:_FEW])
    return "all ranks are alive and stand alike; " + "; ".join(
        f"rank {b.rank}: step {b.step}, {b.work}, at {b.place}" for _, b in sorted(beats.items())[:_FEW]
    )


_FEW = 4
