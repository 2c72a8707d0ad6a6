"""Rendezvous before the first collective; name ranks that never arrive.

A collective that a rank never joins fails by its own time-out at best, and names no rank.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch.distributed
from torch.distributed import PrefixStore, Store

from megatron_ettin.errors import RunFailure

_POLL_SECONDS = 0.1
_MAX_NAMED = 4


@dataclass(frozen=True)
class World:
    """This process among all ranks, and the store that they share."""

    rank: int
    size: int
    store: Store


def find_world(timeout_seconds: float) -> World:
    """Connect to the store of torchrun's environment; without one, the world is this process alone.

    Reads RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.

    Raises:
        RunFailure: the store does not answer within the time-out.
    """
    if "RANK" not in os.environ:
        return World(0, 1, torch.distributed.HashStore())
    timeout = timedelta(seconds=timeout_seconds)
    try:
        store, rank, size = next(torch.distributed.rendezvous("env://", timeout=timeout))
    except RuntimeError as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = f"or its launcher did not answer at {address} within {timeout_seconds:g} s (--timeout-seconds)"
        raise _failure(int(os.environ["RANK"]), [0], reason) from error
    store.set_timeout(timeout)
    return World(rank, size, PrefixStore("megatron_ettin", store))


def wait_for_all(world: World, keys: Mapping[int, str], timeout_seconds: float) -> None:
    """Wait until every other rank has set its key in the store.

    Args:
        world: this rank.
        keys: the key of each other rank.
        timeout_seconds: how long to wait.

    Raises:
        RunFailure: on every rank that arrived, if another one did not within the time-out or has ended.
    """
    deadline = time.monotonic() + timeout_seconds
    awaited, ended = deque(sorted(keys)), set[int]()
    while awaited:
        if _has_arrived(world, keys[awaited[0]]):
            awaited.popleft()
            continue
        before, ended = ended, set(awaited) & ended_siblings(world.rank)
        # Checked twice: a rank may arrive and end in between.
        if gone := sorted(before & ended):
            raise _failure(world.rank, gone, "ended before the run started")
        if time.monotonic() >= deadline:
            absent = [rank for rank in awaited if not _has_arrived(world, keys[rank])]
            raise _failure(world.rank, absent, f"did not arrive within {timeout_seconds:g} s (--timeout-seconds)")
        time.sleep(_POLL_SECONDS)


def ended_siblings(rank: int) -> set[int]:
    """Return the ranks of this rank's launcher that have ended, as far as known."""
    alive = siblings()
    if rank not in alive:
        return set()
    first = rank - int(os.environ["LOCAL_RANK"])
    return set(range(first, first + int(os.environ["LOCAL_WORLD_SIZE"]))) - alive.keys()


def siblings() -> dict[int, int]:
    """Return the processes of this rank's torchrun by rank, including this one, as far as known."""
    parent = os.getppid()
    # A process between torchrun and its ranks, such as a shell, is not torchrun.
    if "TORCHELASTIC_RUN_ID" not in os.environ or _ranks_of(parent):
        return {}
    children = _read(Path(f"/proc/{parent}/task/{parent}/children")).split()
    return {rank: int(child) for child in children for rank in _ranks_of(int(child))}


def _has_arrived(world: World, key: str) -> bool:
    try:
        return bool(world.store.check([key]))
    except RuntimeError:  # the store is gone, and so is its rank
        return False


def _failure(own_rank: int, absent: Sequence[int], reason: str) -> RunFailure:
    """Report absent ranks, kill those of this launcher, and return the error that ends this rank."""
    here = siblings()
    processes = {rank: f"process {here[rank]} on {socket.gethostname()}" for rank in absent if rank in here}
    named = ", ".join(f"rank {rank} ({processes.get(rank, 'process unknown')})" for rank in absent[:_MAX_NAMED])
    for rank in processes:
        os.kill(here[rank], signal.SIGKILL)  # a stopped process would not react to its launcher
    if own_rank != 0:  # rank 0 reports its failure when it ends, but it may be the absent rank
        sys.stderr.write(f"error: {named} {reason}\n")
    return RunFailure(f"{named} {reason}")


def _ranks_of(process: int) -> list[int]:
    """Return the rank of a process; [] if it is not a rank or has ended."""
    settings = _read(Path(f"/proc/{process}/environ")).split(b"\0")
    return [int(setting[5:]) for setting in settings if setting.startswith(b"RANK=")]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # the process has ended
        return b""
