"""Tasks on worker processes of this machine, with the tail of a file that cannot be cut shared among idle ones."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from megatron_ettin.cli import end_with_parent
from megatron_ettin.data.preprocess.readers.records import Task
from megatron_ettin.data.preprocess.worker import Event, Job, Lent, encode_part, process_task, read_lent
from megatron_ettin.errors import ConfigError

Order = tuple[Task, frozenset[int], Lent | None]
"""A task and its parts that are done, or one part of it that another worker lends."""


def run_here(job: Job, tasks: Sequence[tuple[Task, frozenset[int]]]) -> Iterator[Event]:
    """Do all tasks in this process."""
    for task, done in tasks:
        yield from process_task(job, task, done)


def run_on_workers(job: Job, tasks: Sequence[tuple[Task, frozenset[int]]], num_workers: int) -> Iterator[Event]:
    """Do the tasks on worker processes; events of different tasks come mixed.

    Raises:
        ConfigError: what a task raises, or a worker was killed.
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
    """Whether others were told that it has nothing to do."""


class _Pool:
    """Workers are forked, so they have the tokenizer without loading it again: no thread may run here before."""

    def __init__(self, job: Job, num_workers: int) -> None:
        context = get_context("fork")
        self._hungry = context.Semaphore(0)
        self._workers: list[_Worker] = []
        for _ in range(num_workers):
            ours, theirs = context.Pipe()
            others = [ours, *(worker.connection for worker in self._workers)]
            process = context.Process(target=_serve, args=(job, theirs, others, self._hungry), daemon=True)
            process.start()
            theirs.close()
            self._workers.append(_Worker(process, ours))

    def run(self, orders: deque[Order]) -> Iterator[Event]:
        tasks = {task.number: task for task, _, _ in orders}
        self._hand_out(orders)
        while any(worker.is_busy for worker in self._workers):
            ready = wait([w.connection for w in self._workers] + [w.process.sentinel for w in self._workers])
            for worker in self._workers:
                if worker.connection in ready:
                    event = self._receive(worker)
                    if event is None:
                        worker.is_busy = False
                    elif isinstance(event, Lent):
                        orders.append((tasks[event.task], frozenset(), event))
                    else:
                        yield event
                elif worker.process.sentinel in ready:
                    self._refuse_death()
            self._hand_out(orders)

    def close(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()

    def _hand_out(self, orders: deque[Order]) -> None:
        idle = [worker for worker in self._workers if not worker.is_busy]
        for worker in idle:
            if orders:
                worker.connection.send(orders.popleft())
                worker.is_busy, worker.is_announced = True, False
            elif not worker.is_announced:
                worker.is_announced = True
                self._hungry.release()

    def _receive(self, worker: _Worker) -> Any:
        try:
            event = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            self._refuse_death()
        if isinstance(event, BaseException):
            raise event
        return event

    def _refuse_death(self) -> None:
        number = len(self._workers)
        raise ConfigError(f"--workers {number}: a worker was killed; fewer need less memory")


def _serve(job: Job, connection: Connection, others: Sequence[Connection], hungry: Any) -> None:
    """Be a worker: do what comes, tell what was done, and None behind it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:
        other.close()
    end_with_parent()
    while True:
        task, done, lent = connection.recv()
        try:
            if lent is None:
                for event in process_task(job, task, done, lambda: bool(hungry.acquire(block=False))):
                    connection.send(event)
            else:
                for event in encode_part(job, task, lent.part, read_lent(lent.path)):
                    connection.send(event)
        except (ConfigError, OSError) as error:
            connection.send(error)
        connection.send(None)
