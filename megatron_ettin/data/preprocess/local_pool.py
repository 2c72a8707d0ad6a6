"""Run tasks on worker processes of this machine; parts of a file that cannot be cut are lent to idle workers."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn

from megatron_ettin.cli import end_with_parent
from megatron_ettin.data.preprocess.readers.records import Task
from megatron_ettin.data.preprocess.worker import (
    Event,
    Job,
    LentPart,
    PendingTask,
    encode_lent,
    process_task,
)
from megatron_ettin.errors import ConfigError

WorkItem = tuple[Task, frozenset[int], LentPart | None]
"""A task and its finished parts, or one part of it that another worker lends."""


def run_here(job: Job, tasks: Sequence[PendingTask]) -> Iterator[Event]:
    """Run all tasks in this process."""
    for task, done in tasks:
        yield from process_task(job, task, done)


def run_on_workers(job: Job, tasks: Sequence[PendingTask], num_workers: int) -> Iterator[Event]:
    """Run the tasks on worker processes; the events of different tasks interleave.

    Raises:
        ConfigError: a task raised it, or a worker was killed.
        OSError: a task raised it.
    """
    pool = _Pool(job, num_workers)
    try:
        yield from pool.run(deque((task, done, None) for task, done in tasks))
    finally:
        pool.close()


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    is_busy: bool = False
    is_announced: bool = False
    """Whether the semaphore already counts it as idle."""


class _Pool:
    """Worker processes. They are forked and inherit the loaded tokenizer, so no thread may run before."""

    def __init__(self, job: Job, num_workers: int) -> None:
        context = get_context("fork")
        self._idle_workers = context.Semaphore(0)
        self._workers: list[_Worker] = []
        for _ in range(num_workers):
            ours, theirs = context.Pipe()
            others = [ours, *(worker.connection for worker in self._workers)]
            process = context.Process(target=_serve, args=(job, theirs, others, self._idle_workers), daemon=True)
            process.start()
            theirs.close()
            self._workers.append(_Worker(process, ours))

    def run(self, items: deque[WorkItem]) -> Iterator[Event]:
        """Yield the events of all items, and of the parts that their workers lend."""
        tasks = {task.number: task for task, _, _ in items}
        self._hand_out(items)
        while any(worker.is_busy for worker in self._workers):
            ready = wait([w.connection for w in self._workers] + [w.process.sentinel for w in self._workers])
            for worker in self._workers:
                if worker.connection in ready:
                    event = self._receive(worker)
                    if event is None:
                        worker.is_busy = False
                    elif isinstance(event, LentPart):
                        items.append((tasks[event.task], frozenset(), event))
                    else:
                        yield event
                elif worker.process.sentinel in ready:
                    self._raise_killed()
            self._hand_out(items)

    def close(self) -> None:
        """Kill the workers."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()

    def _hand_out(self, items: deque[WorkItem]) -> None:
        """Send items to idle workers; announce those that get none."""
        idle = [worker for worker in self._workers if not worker.is_busy]
        for worker in idle:
            if items:
                worker.connection.send(items.popleft())
                worker.is_busy, worker.is_announced = True, False
            elif not worker.is_announced:
                worker.is_announced = True
                self._idle_workers.release()

    def _receive(self, worker: _Worker) -> Any:
        try:
            event = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            self._raise_killed()
        if isinstance(event, BaseException):
            raise event
        return event

    def _raise_killed(self) -> NoReturn:
        raise ConfigError(f"--workers {len(self._workers)}: a worker was killed; fewer workers need less memory")


def _serve(job: Job, connection: Connection, others: Sequence[Connection], idle_workers: Any) -> None:
    """Run items as they arrive: send the events of each, then None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:
        other.close()
    end_with_parent()
    while True:
        task, done, lent = connection.recv()
        try:
            if lent is None:
                for event in process_task(job, task, done, lambda: bool(idle_workers.acquire(block=False))):
                    connection.send(event)
            else:
                for event in encode_lent(job, task, lent.part, lent.path):
                    connection.send(event)
        except (ConfigError, OSError) as error:
            connection.send(error)
        connection.send(None)
