"""The training loop: make a step, then evaluate, log, save, stop."""

from __future__ import annotations

import time
from collections.abc import Callable

from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.train.feed import build_ahead
from megatron_ettin.train.session import Session
from megatron_ettin.train.step import train_step


def train(
    session: Session, build_batches: Callable[[int], list[PackedBatch]], rate_of: Callable[[int, int], float]
) -> None:
    """Train until the run is complete or this launch has to stop; leaves a checkpoint of the last step.

    Args:
        session: the run under way.
        build_batches: gives this rank's micro-batches of a step (0-based).
        rate_of: gives the learning rate of a step, by its number and the tokens trained before it.
    """
    steps = session.steps_ahead
    with build_ahead(build_batches, steps) as batches_of:
        for step in steps:
            started = time.perf_counter()
            rate = rate_of(step, session.state.consumed_tokens)
            result = train_step(session.training, batches_of(step), rate)
            session.count(result, rate, seconds=time.perf_counter() - started)
            session.evaluate()
            session.log()
            session.save()
            if session.stop():
                break
