"""The heartbeat of a rank, and which rank causes a stall."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

WAITS_IN = ("/torch/distributed/", "/megatron/core/distributed/", "/megatron/core/pipeline_parallel/")
"""A thread whose innermost Python frame is in one of these waits for other ranks, or sends them data."""

_MAX_NAMED = 4


@dataclass(frozen=True)
class Beat:
    """One rank's heartbeat, renewed every few seconds by its own thread."""

    rank: int
    host: str
    pid: int
    count: int
    """Increases while the process runs."""
    step: int
    """The current one, 1-based."""
    work: str
    """What the main thread does, such as training."""
    marks: int
    """How often the main thread has reported new work; the ranks with the fewest marks are late."""
    waits: bool
    """Whether the main thread waits for other ranks."""
    location: str
    """The source line of the main thread."""

    def encoded(self) -> str:
        """Return the text for the store."""
        return json.dumps(asdict(self))

    @classmethod
    def decoded(cls, text: bytes | str) -> Beat:
        """Return the heartbeat of a text by :meth:`encoded`."""
        return cls(**json.loads(text))

    @property
    def process(self) -> str:
        """Return the process as a user looks for it."""
        return f"rank {self.rank} (process {self.pid} on {self.host})"


@dataclass(frozen=True)
class Location:
    """Where a thread is."""

    source: str
    """The innermost frame of this package, or the innermost one if there is none."""
    waits: bool
    key: tuple[int, int]
    """Equal as long as the thread has not moved."""


def thread_location(thread: int) -> Location:
    """Return where a thread is, by its identifier."""
    innermost = sys._current_frames().get(thread)
    if innermost is None:
        return Location("nowhere", waits=False, key=(0, 0))
    frame: FrameType | None = innermost
    while frame is not None and "/megatron_ettin/" not in frame.f_code.co_filename:
        frame = frame.f_back
    shown = frame or innermost
    waits = any(part in innermost.f_code.co_filename for part in WAITS_IN)
    return Location(_source(shown), waits, (id(innermost), innermost.f_lasti))


def _source(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    return f"{path.parent.name}/{path.name}:{frame.f_lineno}, {frame.f_code.co_name}"


def silent_ranks(earlier: Mapping[int, Beat], later: Mapping[int, Beat]) -> list[Beat]:
    """Return the last heartbeats of ranks without a new one between two readings: stopped, dead or disconnected."""
    return [beat for rank, beat in sorted(later.items()) if rank in earlier and beat.count == earlier[rank].count]


def late_ranks(beats: Mapping[int, Beat]) -> list[Beat]:
    """Return the ranks that the others wait for, all of them alive; [] if no rank differs from the others."""
    fewest = min(beat.marks for beat in beats.values())
    last = [beat for _, beat in sorted(beats.items()) if beat.marks == fewest]
    late = [beat for beat in last if not beat.waits] or last
    return late if len(late) < len(beats) else []


def verdict(silent: list[Beat], beats: Mapping[int, Beat]) -> str:
    """Return which ranks cause a stall, in a few words."""
    if silent:
        return "; ".join(
            f"{b.process} does not answer, last heard from at step {b.step}, {b.work}" for b in silent[:_MAX_NAMED]
        )
    late = late_ranks(beats)
    if late:
        return "; ".join(f"{b.process} is late: step {b.step}, {b.work}, at {b.location}" for b in late[:_MAX_NAMED])
    return "all ranks are alive and at the same point; " + "; ".join(
        f"rank {b.rank}: step {b.step}, {b.work}, at {b.location}" for _, b in sorted(beats.items())[:_MAX_NAMED]
    )
