"""The training loop: make a step, then evaluate, log, save, stop."""

from __future__ import annotations

import time
from collections.abc import Callable

from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.train.prefetch import build_ahead
from megatron_ettin.train.step import train_step
from megatron_ettin.train.trainer import Session


def train(
    session: Session, build_batches: Callable[[int], list[PackedBatch]], rate_of: Callable[[int, int], float]
) -> None:
    """Train until the run is complete or this launch has to stop; leaves a checkpoint of the last step.

    Raises:
        RunFailure: on all ranks, when too many steps in a row were not fit to be made.

    Args:
        session: the run under way.
        build_batches: gives this rank's micro-batches of a step (0-based).
        rate_of: gives the learning rate of a step, by its number and the tokens trained before it.
    """
    steps = session.steps_ahead
    if session.stop_early():
        return
    with build_ahead(build_batches, steps) as batches_of:
        for step in steps:
            started = time.perf_counter()
            session.training.stopwatch.begin()
            # The first step also compiles and warms up.
            session.watchdog.mark(step + 1, "training", limited=step > steps[0])
            rate = rate_of(step, session.state.consumed_tokens)
            batches = batches_of(step)
            waited = time.perf_counter() - started
            with session.profiler.step(step + 1):
                result = train_step(session.training, batches, rate, session.requests.votes, session.guard.allows)
            session.count(result, rate, time.perf_counter() - started, waited)
            if not result.applied:
                session.tell_skip(result, batches)
            session.evaluate()
            session.log()
            session.save()
            if session.stop():
                break
