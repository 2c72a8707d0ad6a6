"""Micro-batches in training order, built while the step before is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from megatron_ettin.checkpoint.folder.state import TrainingState
from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.data.batch_plan import StepPlan
from megatron_ettin.data.training_rows import TrainingRows
from megatron_ettin.objectives.objective import Objective
from megatron_ettin.runtime.device import Device
from megatron_ettin.runtime.ranks import Ranks
from megatron_ettin.train.datasets import batch_rule


def plan_steps(
    config: RunConfig, rows: TrainingRows, objective: Objective, state: TrainingState | None = None
) -> StepPlan:
    """Return which rows the steps from a state on train; without one from the beginning."""
    state = state or TrainingState()
    if state.source_rows:
        rows.blend.start_at(state.consumed_samples, state.source_rows)
    return StepPlan(
        batch_rule(config, close_every_chunk=objective.close_every_chunk),
        rows,
        step=state.step,
        sample=state.consumed_samples,
        tokens=state.consumed_tokens,
        counts_tokens=bool(config.data.mlm_probability_schedule),
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


Build = Callable[[int], list[PackedBatch]]
"""Gives this rank's micro-batches of a step."""


def pinned(build: Build, device: Device) -> Build:
    """Return ``build`` with its batches page-locked by the thread that builds them; on a CPU ``build`` itself.

    The copies go into the stream that computes, in order before the step that reads them; they are a thousandth of it
    at most, so a stream of their own would win nothing. Who holds a batch until its step's results were read, as the
    training loop does, need not fear that the memory is used again too early.
    """
    if device.type != "cuda":
        return build

    def build_pinned(step: int) -> list[PackedBatch]:
        # A new thread stands at the first GPU, and would take memory of it.
        torch.cuda.set_device(device.index)
        return [pin_batch(batch) for batch in build(step)]

    return build_pinned


def pin_batch(batch: PackedBatch) -> PackedBatch:
    """Return a batch of the same values whose arrays are page-locked; an empty one has nothing to lock."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    locked: dict[str, Any] = {name: _pin(array) for name, array in arrays.items() if array.size}
    return replace(batch, **locked)


def _pin(array: NDArray[Any]) -> NDArray[Any]:
    found: NDArray[Any] = torch.from_numpy(array).pin_memory().numpy()
    return found
