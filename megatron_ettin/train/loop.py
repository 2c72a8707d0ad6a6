"""The training loop: make a step, then evaluate, log, save, stop."""

from __future__ import annotations

import time
from collections.abc import Callable

from megatron_ettin.train.prefetch import BatchPrefetcher
from megatron_ettin.train.step import train_step
from megatron_ettin.train.trainer import Trainer


def train(trainer: Trainer, learning_rate: Callable[[int, int], float]) -> None:
    """Train until the run is complete or the launch has to stop; the last step is saved.

    Args:
        trainer: the run.
        learning_rate: of a step (0-based), given its number and the tokens trained before it.

    Raises:
        RunFailure: on all ranks, after too many skipped steps in a row.
    """
    steps = trainer.steps_ahead
    if trainer.should_stop_early():
        return
    with BatchPrefetcher(trainer.build_batches, steps, trainer.training.device) as prefetcher:
        for step in steps:
            started = time.perf_counter()
            trainer.training.stopwatch.start()
            # The first step also compiles and warms up.
            trainer.watchdog.mark(step + 1, "training", limited=step > steps[0])
            rate = learning_rate(step, trainer.state.consumed_tokens)
            batches = prefetcher.batches(step)
            waited = time.perf_counter() - started
            with trainer.profiler.step(step + 1):
                result = train_step(trainer.training, batches, rate, trainer.requests.votes, trainer.guard.allows)
            report = trainer.count(result, rate, time.perf_counter() - started, waited)
            if not result.applied:
                trainer.report_skip(report, batches)
            validation = trainer.evaluate()
            trainer.log(report, validation)
            trainer.save()
            if trainer.should_stop():
                break
