"""Ranks meet in the store of their launcher before any collective: who does not come is named.

A collective to which a rank does not come fails by its own time-out at best, and names nobody.
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

_LOOK_SECONDS = 0.1
_FEW = 4
"""Ranks that are told of."""


@dataclass(frozen=True)
class World:
    """Who this process is among all, and the store by which they find each other."""

    rank: int
    size: int
    store: Store


def find_world(timeout_seconds: float) -> World:
    """Connect to the store that torchrun's environment names; without it the world is this process.

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
    """Wait until all ranks have put their key into the store.

    Args:
        world: this rank.
        keys: what each of the others puts there, by rank.
        timeout_seconds: how long to wait.

    Raises:
        RunFailure: on every rank that came, when one did not within the time-out, or has ended.
    """
    deadline = time.monotonic() + timeout_seconds
    awaited, ended = deque(sorted(keys)), set[int]()
    while awaited:
        if _has_come(world, keys[awaited[0]]):
            awaited.popleft()
            continue
        before, ended = ended, set(awaited) & ended_siblings(world.rank)
        # Seen twice: it may have come in between.
        if gone := sorted(before & ended):
            raise _failure(world.rank, gone, "ended before the run began")
        if time.monotonic() >= deadline:
            absent = [rank for rank in awaited if not _has_come(world, keys[rank])]
            raise _failure(world.rank, absent, f"did not come within {timeout_seconds:g} s (--timeout-seconds)")
        time.sleep(_LOOK_SECONDS)


def ended_siblings(rank: int) -> set[int]:
    """Return the ranks of this rank's launcher that live no more, as far as can be told."""
    alive = siblings()
    if rank not in alive:
        return set()
    first = rank - int(os.environ["LOCAL_RANK"])
    return set(range(first, first + int(os.environ["LOCAL_WORLD_SIZE"]))) - alive.keys()


def siblings() -> dict[int, int]:
    """Return the processes that torchrun has started beside this one and this one, by rank, as far as can be told."""
    parent = os.getppid()
    # What stands between torchrun and its ranks, such as a shell, is not torchrun.
    if "TORCHELASTIC_RUN_ID" not in os.environ or _ranks_of(parent):
        return {}
    children = _read(Path(f"/proc/{parent}/task/{parent}/children")).split()
    return {rank: int(child) for child in children for rank in _ranks_of(int(child))}


def _has_come(world: World, key: str) -> bool:
    try:
        return bool(world.store.check([key]))
    except RuntimeError:  # the store is gone, and whoever kept it
        return False


def _failure(own_rank: int, absent: Sequence[int], reason: str) -> RunFailure:
    """Return what ends the launch of this rank, told on the screen, and end the absent ranks of its launcher."""
    here = siblings()
    processes = {rank: f"process {here[rank]} on {socket.gethostname()}" for rank in absent if rank in here}
    told = ", ".join(f"rank {rank} ({processes.get(rank, 'its process is not known here')})" for rank in absent[:_FEW])
    for rank in processes:
        os.kill(here[rank], signal.SIGKILL)  # one that was stopped would not hear its launcher
    if own_rank != 0:  # rank 0 tells its failure at its end, but it may be the one that did not come
        sys.stderr.write(f"error: {told} {reason}\n")
    return RunFailure(f"{told} {reason}")


def _ranks_of(process: int) -> list[int]:
    """Return the rank that a process was started as; none for another one, and where it has ended."""
    settings = _read(Path(f"/proc/{process}/environ")).split(b"\0")
    return [int(setting[5:]) for setting in settings if setting.startswith(b"RANK=")]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # ended meanwhile
        return b""
