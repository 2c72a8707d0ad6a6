"""End the run and name the rank if a rank stalls, is stopped, dies or never arrives.

After the rendezvous, every rank has two threads. The heartbeat thread renews this rank's beat in the store and reads
its neighbour's. The watchdog thread watches the main thread, and without progress for too long asks the heartbeat
thread for the beats of all ranks; it never uses the store itself, which may not answer either.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from megatron_ettin.runtime.health.flight_recorder import write_records
from megatron_ettin.runtime.health.heartbeat import Beat, Location, silent_ranks, thread_location, verdict
from megatron_ettin.runtime.health.rendezvous import World, wait_for_all
from megatron_ettin.runtime.signals import end_at_once

COLLECTIVE_GRACE_SECONDS = 30.0
"""Time of collectives beyond the time-out: their own error, which names no rank, must not come first."""

_MAX_PAUSE_SECONDS = 2.0
_BEATS_TO_BE_SILENT = 4
_MAX_DELAY_SECONDS = 5.0
"""A thread that wakes up later than this did not merely wait for a busy machine."""
_EXIT_CODE = 1
_FIRST_WORK = "building"


class Watchdog:
    """Watches the thread that created it, while its ``with`` block runs."""

    def __init__(
        self, world: World, timeout_seconds: float, end: Callable[[int], None] = end_at_once, write: int = 2
    ) -> None:
        """Create a watchdog.

        Args:
            world: this rank and its store.
            timeout_seconds: how long a rank may make no progress.
            end: ends the process with an exit code.
            write: the descriptor for the final message.
        """
        self._world = world
        self._timeout = timeout_seconds
        self._end, self._write = end, write
        self._pause = min(_MAX_PAUSE_SECONDS, timeout_seconds / 40)
        self._main = threading.get_ident()
        self._step, self._work, self._limited = 0, _FIRST_WORK, False
        self._marks, self._marked_at = 0, 0.0
        self._awake = 0.0
        self._closed = threading.Event()
        self._ask, self._answered = threading.Event(), threading.Event()
        self._answer = ""
        self._neighbour_silent_for = 0.0
        self._beats = _Beats(world, self._pause) if world.size > 1 else None
        self._threads = [threading.Thread(target=self._watch, name="watchdog", daemon=True)]
        if self._beats:
            self._threads.append(threading.Thread(target=self._beat, name="heartbeat", daemon=True))

    def mark(self, step: int, work: str, *, limited: bool = False) -> None:
        """Report that the main thread starts other work.

        Args:
            step: the current step, 1-based.
            work: what it does, in a word or two.
            limited: whether the work itself must not exceed the time-out; otherwise only waiting for others must not.
        """
        self._step, self._work, self._limited = step, work, limited
        self._marked_at = self._awake
        self._marks += 1

    def dead_ranks(self) -> str:
        """Return which ranks do not answer, in a few words, "" if all do; for a collective that has failed."""
        if self._beats is None or not self._threads[1].is_alive():
            return ""
        text = self._ask_verdict(time.monotonic() + 5.0)
        return text if "does not answer" in text else ""

    def __enter__(self) -> Watchdog:
        """Wait for the other ranks and start to watch.

        Raises:
            RunFailure: on every rank that arrived, if another one did not within the time-out or has ended.
        """
        if self._beats:
            self._beats.meet(self._timeout)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed.set()
        for thread in self._threads:
            # A thread that waits for a dead store ends with the process.
            thread.join(timeout=2 * self._pause + 1.0)

    def _watch(self) -> None:
        waiting_at, waiting_since, checked_at = (0, 0, 0), 0.0, time.monotonic()
        while not self._closed.wait(self._pause):
            # A job that a scheduler suspended has not stalled: time in which the process slept is not counted.
            self._awake += min(time.monotonic() - checked_at, self._pause + _MAX_DELAY_SECONDS)
            checked_at = time.monotonic()
            location = thread_location(self._main)
            here = (*location.key, self._marks)
            if not location.waits or here != waiting_at:
                waiting_at, waiting_since = here, self._awake
            stuck = max(self._awake - waiting_since, self._awake - self._marked_at if self._limited else 0.0)
            if max(stuck, self._neighbour_silent_for) > self._timeout:
                self._give_up()
                return

    def _give_up(self) -> None:
        text = self._ask_verdict(time.monotonic() + self._silence_seconds + 5.0)
        if self._closed.is_set():
            return
        line = f"error: rank {self._world.rank}, step {self._step}: no progress for {self._timeout:g} s "
        line += f"(--timeout-seconds), {self._work}: {text}\n"
        os.write(self._write, line.encode())
        write_records(self._world.rank)
        if self._beats:
            self._beats.kill_silent_siblings()
        self._end(_EXIT_CODE)

    def _ask_verdict(self, deadline: float) -> str:
        """Ask the heartbeat thread for a verdict on all ranks."""
        if self._beats is None:
            return f"is at {thread_location(self._main).source}"
        self._answered.clear()
        self._ask.set()
        if self._answered.wait(max(0.0, deadline - time.monotonic())):
            return self._answer
        return f"the store at {self._beats.address} does not answer; it belongs to rank 0 or to its launcher"

    @property
    def _silence_seconds(self) -> float:
        return self._pause * _BEATS_TO_BE_SILENT

    def _beat(self) -> None:
        assert self._beats is not None
        beats, seen_count, seen_at, asked_at = self._beats, -1, self._awake, 0.0
        while not self._closed.wait(self._pause):
            try:
                beats.send(self._step, self._work, self._marks, thread_location(self._main))
                count = beats.neighbour_count()
                if self._ask.is_set() and not asked_at:
                    beats.read_all()
                    asked_at = time.monotonic()
                elif asked_at and time.monotonic() - asked_at > self._silence_seconds:
                    self._answer, asked_at = beats.judge(), 0.0
                    self._ask.clear()
                    self._answered.set()
            except RuntimeError:  # the store is gone; the watchdog thread ends the run if it stalls
                continue
            if count != seen_count:
                seen_count, seen_at = count, self._awake
            self._neighbour_silent_for = self._awake - seen_at


class _Beats:
    """The beats of all ranks in the store; used by one thread at a time."""

    def __init__(self, world: World, pause_seconds: float) -> None:
        self._world = world
        # A separate connection: a waiting main thread blocks that of the process group.
        own: Any = world.store  # torch's stubs lack clone
        self._store = own.clone()
        self._store.set_timeout(timedelta(seconds=max(10.0, 4 * pause_seconds)))
        self.address = f"{os.environ.get('MASTER_ADDR', 'this host')}:{os.environ.get('MASTER_PORT', '')}"
        self._count = 0
        self._host = socket.gethostname()
        self._earlier: dict[int, Beat] = {}
        self._silent: list[Beat] = []
        self._neighbour = (world.rank + 1) % world.size

    def meet(self, timeout_seconds: float) -> None:
        """Wait for the first beat of every rank; from then on their keys exist."""
        self.send(0, _FIRST_WORK, 0, Location("", waits=False, key=(0, 0)))
        keys = {rank: _key(rank) for rank in range(self._world.size) if rank != self._world.rank}
        wait_for_all(self._world, keys, timeout_seconds)

    def send(self, step: int, work: str, marks: int, location: Location) -> None:
        """Renew this rank's beat."""
        self._count += 1
        rank = self._world.rank
        waits, source = location.waits, location.source
        beat = Beat(rank, self._host, os.getpid(), self._count, step, work, marks, waits, source)
        self._store.set(_key(rank), beat.encoded())

    def neighbour_count(self) -> int:
        """Return the count of the next rank's beats."""
        return self._read(self._neighbour).count

    def read_all(self) -> None:
        """Read the beats of all ranks, for comparison with later ones."""
        self._earlier = self._read_ranks()

    def judge(self) -> str:
        """Compare the beats with those of :meth:`read_all`; return the verdict."""
        beats = self._read_ranks()
        self._silent = silent_ranks(self._earlier, beats)
        return verdict(self._silent, beats)

    def kill_silent_siblings(self) -> None:
        """Kill the ranks of this launcher that do not answer; a stopped process would not react to another signal."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return
        for beat in self._silent:
            if beat.host == self._host and _parent_of(beat.pid) == os.getppid():
                os.kill(beat.pid, signal.SIGKILL)

    def _read_ranks(self) -> dict[int, Beat]:
        return {rank: self._read(rank) for rank in range(self._world.size)}

    def _read(self, rank: int) -> Beat:
        return Beat.decoded(self._store.get(_key(rank)))


def _key(rank: int) -> str:
    return f"megatron_ettin/heartbeat/{rank}"


def _parent_of(pid: int) -> int:
    """Return the parent of a process of this machine, or 0 if the process has ended."""
    try:
        # The second field is the program's name in parentheses, which may contain spaces and parentheses.
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[1])
    except (OSError, ValueError, IndexError):
        return 0
