"""A stalled rank is named by the others; the end of the process is replaced by a function."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from tests.helpers.distributed import run_ranks
from tests.helpers.runs import tiny_run
from tests.helpers.speed import patience

TIMEOUT_SECONDS = 2.0
MAX_WAIT_SECONDS = 60.0


def joined() -> Any:
    from megatron_ettin.runtime.device import choose_device
    from megatron_ettin.runtime.health.rendezvous import find_world
    from megatron_ettin.runtime.process import start_process

    world = find_world(60.0)
    start_process(tiny_run("mlm"), choose_device("cpu"), world)
    return world


def wait_for(world: Any, *keys: str, seconds: float = MAX_WAIT_SECONDS) -> None:
    """Wait until the ranks have set these keys, in code that the watchdog counts as work."""
    deadline = time.monotonic() + seconds
    while not world.store.check(list(keys)) and time.monotonic() < deadline:
        time.sleep(0.05)


def watched(late_rank: int, late_seconds: float, work: str, limited: bool) -> tuple[str, float]:
    """Meet in a barrier that one rank reaches late, or once a watchdog has fired; return its message and its time."""
    import torch.distributed

    from megatron_ettin.runtime.health.watchdog import Watchdog

    world = joined()
    read_end, write_end = os.pipe()
    ended: list[float] = []
    started = time.monotonic()

    def end(code: int) -> None:
        ended.append(time.monotonic() - started)
        world.store.set("ended", "")

    with Watchdog(world, TIMEOUT_SECONDS, end, write_end) as watchdog:
        watchdog.mark(7, work, limited=limited)
        if world.rank == late_rank:
            wait_for(world, "ended", seconds=late_seconds)
        torch.distributed.barrier()
    os.close(write_end)
    with os.fdopen(read_end) as file:
        return file.read(), ended[0] if ended else 0.0


def test_late_rank_is_named_by_the_waiting_ones() -> None:
    (message, seconds), (own_message, _) = run_ranks(2, watched, 1, MAX_WAIT_SECONDS, "training", False)
    assert message.startswith(
        "error: rank 0, step 7: no progress for 2 s (--timeout-seconds), training: rank 1 (process "
    )
    assert "is late: step 7, training, at " in message
    assert message.count("\n") == 1
    assert TIMEOUT_SECONDS < seconds + 0.3 < TIMEOUT_SECONDS + patience(2.0)
    assert own_message == ""  # busy with work without a limit


def test_limited_work_is_ended_although_no_rank_waits() -> None:
    [(message, _)] = run_ranks(1, watched, 0, MAX_WAIT_SECONDS, "training", True)
    assert "rank 0, step 7: no progress for 2 s" in message
    assert "test_watchdog.py" in message


def test_unlimited_work_is_not_ended() -> None:
    assert run_ranks(1, watched, 0, 3.0, "building", False) == [("", 0.0)]


def fall_silent() -> tuple[str, str]:
    """Rank 1 stops its heartbeat while rank 0 does long work."""
    import torch.distributed

    from megatron_ettin.runtime.health.watchdog import Watchdog

    world = joined()
    read_end, write_end = os.pipe()
    with Watchdog(world, TIMEOUT_SECONDS, lambda code: world.store.set("ended", ""), write_end) as watchdog:
        watchdog.mark(3, "saving")
        if world.rank == 1:
            time.sleep(0.5)  # for a few heartbeats
            watchdog._closed.set()  # its threads end, as those of a stopped process
            for thread in watchdog._threads:
                thread.join()
            world.store.set("silent", "")
            wait_for(world, "ended")
            text = ""
        else:
            wait_for(world, "silent")  # a collective fails only after its rank is gone
            text = watchdog.dead_ranks()
            wait_for(world, "ended")
    torch.distributed.barrier()
    os.close(write_end)
    with os.fdopen(read_end) as file:
        return file.read(), text


def test_silent_rank_is_named_although_no_rank_waits_for_it() -> None:
    (message, asked), _ = run_ranks(2, fall_silent)
    assert "rank 1 (process " in asked
    assert "does not answer, last heard from at step 3, saving" in asked
    assert "does not answer" in message


def test_threads_end_with_the_block() -> None:
    assert run_ranks(2, threads_after) == [[], []]


def threads_after() -> list[str]:
    from megatron_ettin.runtime.health.watchdog import Watchdog

    world = joined()
    with Watchdog(world, TIMEOUT_SECONDS):
        time.sleep(0.2)
    return [thread.name for thread in threading.enumerate() if thread.name in ("watchdog", "heartbeat")]


def arrive_or_not(absent_rank: int, timeout_seconds: float) -> str:
    """Meet the others, except for one rank that arrives too late; return why the run does not start."""
    from megatron_ettin.errors import RunFailure
    from megatron_ettin.runtime.health.rendezvous import find_world
    from megatron_ettin.runtime.health.watchdog import Watchdog

    world = find_world(60.0)
    if world.rank == absent_rank:
        wait_for(world, *(f"failed {rank}" for rank in range(world.size) if rank != absent_rank))
        return ""
    try:
        with Watchdog(world, timeout_seconds):
            return "met"
    except RunFailure as failure:
        world.store.set(f"failed {world.rank}", "")
        return str(failure)


def test_rank_that_does_not_arrive_is_named() -> None:
    message = "rank 2 (process unknown) did not arrive within 1 s (--timeout-seconds)"
    assert run_ranks(3, arrive_or_not, 2, 1.0) == [message, message, ""]
