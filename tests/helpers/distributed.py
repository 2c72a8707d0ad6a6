"""Run a function on several gloo ranks, in processes that live as long as the test session.

megatron-core takes seconds to import. A fork server imports it once; the workers fork from it and are used again by
every test. A test's function joins and leaves the process group itself, as a real rank does. Each worker of
pytest-xdist has a fork server and a pool of its own.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

MAX_RANKS = 4
MAX_THREADS = 30
"""A worker with more is replaced: with the distributed optimizer, megatron-core's objects are never freed, nor are the
process groups that they hold, each with a gloo thread that wakes up a hundred times a second."""
CONTEXT: ForkServerContext = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.helpers.preload"])

ERROR_GRACE_SECONDS = 2.0
"""How long the ranks of a failed one may need to fail on their own; more only makes a failing test slower."""


@dataclass
class _Worker:
    process: ForkServerProcess
    pipe: Connection

    def stop(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()


_workers: list[_Worker] = []


def run_ranks(
    world_size: int, function: Callable[..., Any], *args: Any, timeout_seconds: float = 480.0, **kwargs: Any
) -> list[Any]:
    """Call ``function(*args, **kwargs)`` on every rank of a world and return the results in rank order.

    Args:
        world_size: number of ranks, at most MAX_RANKS.
        function: a module-level function; it finds RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in its environment,
            as under torchrun.
        args: positional arguments, picklable.
        timeout_seconds: how long the slowest rank may take.
        kwargs: keyword arguments, picklable.

    Raises:
        RuntimeError: a rank raised (its traceback is in the message) or took too long; the pool is then replaced.
    """
    assert world_size <= MAX_RANKS
    while len(_workers) < world_size:
        _workers.append(_start_worker())
    workers, store = _workers[:world_size], _start_store()
    try:
        for rank, worker in enumerate(workers):
            environment = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world_size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
            }
            worker.pipe.send((environment, function, args, kwargs))
        return _collect(workers, timeout_seconds)
    except BaseException:
        # Also when the test itself is interrupted: a worker that is still busy would answer the next call with this
        # one's result.
        stop_pool()
        raise


def _collect(workers: list[_Worker], timeout_seconds: float) -> list[Any]:
    results: dict[int, Any] = {}
    errors: dict[int, str] = {}
    deadline = time.monotonic() + timeout_seconds
    worn: list[_Worker] = []
    while len(results) + len(errors) < len(workers) and time.monotonic() < deadline:
        waiting: dict[Any, int] = {
            w.pipe: rank for rank, w in enumerate(workers) if rank not in results and rank not in errors
        }
        for pipe in wait(list(waiting), timeout=0.5):
            rank = waiting[pipe]
            try:
                ok, value, threads = workers[rank].pipe.recv()
            except EOFError:
                ok, value, threads = False, "the process died", 0
            if threads > MAX_THREADS:
                worn.append(workers[rank])
            if ok:
                results[rank] = value
            else:
                errors[rank] = value
        if errors:
            # The others may wait for the failed rank for ever; give them a moment to fail on their own.
            deadline = min(deadline, time.monotonic() + ERROR_GRACE_SECONDS)
    for worker in worn:
        worker.stop()
        _workers.remove(worker)
    if len(results) == len(workers):
        return [results[rank] for rank in range(len(workers))]
    missing = [rank for rank in range(len(workers)) if rank not in results and rank not in errors]
    report = "".join(f"\n--- rank {rank} ---\n{text}" for rank, text in sorted(errors.items()))
    raise RuntimeError(f"ranks {sorted(errors)} failed, ranks {missing} did not answer{report}")


def _start_worker() -> _Worker:
    ours, theirs = CONTEXT.Pipe()
    # Not daemonic: saving a checkpoint starts processes, which daemons may not.
    process = CONTEXT.Process(target=_serve, args=(theirs,), daemon=False)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def stop_pool() -> None:
    """End all workers; the next call of :func:`run_ranks` starts new ones."""
    for worker in _workers:
        worker.stop()
    _workers.clear()


def _serve(pipe: Connection) -> None:
    """Answer calls until the test session closes the pipe."""
    import torch

    from megatron_ettin.runtime.process import end_process

    torch.set_num_threads(1)
    gc.freeze()  # what the modules made lives as long as the worker: the collections below need not visit it
    while True:
        try:
            environment, function, args, kwargs = pipe.recv()
        except EOFError:
            return
        os.environ.update(environment)
        try:
            answer = (True, function(*args, **kwargs))
        except BaseException:
            answer = (False, traceback.format_exc())
        finally:
            end_process()
            # Training objects refer to one another, and the process groups they hold keep dozens of gloo threads each.
            gc.collect()
            gc.freeze()
        pipe.send((*answer, _num_threads()))


def _num_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def _start_store() -> Any:
    """Serve the store in which the ranks of one call meet, as torchrun does.

    Where rank 0 serves it, a rank that comes sooner tries again after half a second or more, and another process may
    have taken the port.
    """
    from torch.distributed import TCPStore

    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
