"""Micro-batches in training order, built while the step before is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from megatron_ettin.checkpoint.state import TrainingState
from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.data.steps import StepPlan
from megatron_ettin.data.training_rows import TrainingRows
from megatron_ettin.objectives.objective import Objective
from megatron_ettin.runtime.groups import Ranks
from megatron_ettin.train.sources import batch_rule


def plan_steps(
    run: RunConfig, rows: TrainingRows, objective: Objective, state: TrainingState | None = None
) -> StepPlan:
    """Return which rows the steps from a state on train; without one from the beginning."""
    state = state or TrainingState()
    if state.source_rows:
        rows.blend.remember(state.consumed_samples, state.source_rows)
    return StepPlan(
        batch_rule(run, counts_closed=objective.closes_every_piece),
        rows,
        step=state.step,
        sample=state.consumed_samples,
        tokens=state.consumed_tokens,
        counts_tokens=bool(run.data.mlm_probability_schedule),
    )


def step_batches(
    plan: StepPlan, rows: TrainingRows, objective: Objective, ranks: Ranks, step: int
) -> list[PackedBatch]:
    """Build this rank's micro-batches of one step: a function of the step, whatever was trained before."""
    before = max(0, plan.of(step).tokens_before)
    return [
        objective.train_batch(rows.rows(part.start, part.stop), part, before)
        for part in plan.micro_batches(step, ranks.dp_rank, ranks.dp_size)
    ]


@contextmanager
def build_ahead(
    build: Callable[[int], list[PackedBatch]], steps: range
) -> Iterator[Callable[[int], list[PackedBatch]]]:
    """Hand out ``build`` for the given steps, asked for in order, with the next step built in a thread meanwhile."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed") as thread:
        pending: dict[int, Future[list[PackedBatch]]] = {}

        def batches_of(step: int) -> list[PackedBatch]:
            ready = pending.pop(step, None) or thread.submit(build, step)
            if step + 1 in steps:
                pending[step + 1] = thread.submit(build, step + 1)
            return ready.result()

        yield batches_of
