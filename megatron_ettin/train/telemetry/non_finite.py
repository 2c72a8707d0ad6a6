"""Find where non-finite values arise, by a second pass over the same micro-batches."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.data.batch_plan import StepPlan
from megatron_ettin.runtime.ranks import Ranks
from megatron_ettin.train.build import Training
from megatron_ettin.train.step import run_schedule

_MAX_RANKS = 4
"""Ranks that the message lists."""


@dataclass(frozen=True)
class NonFinite:
    """The first non-finite value on a rank."""

    ranks: Ranks
    micro_batch: int
    """Index within the rank's part of the step."""
    place: int
    """Position in the rank's order of computation."""
    description: str

    @property
    def order(self) -> tuple[int, int, int, int]:
        """Sorts the values of one replica of the model by the order of computation."""
        return self.micro_batch, self.ranks.pp_rank, self.place, self.ranks.tp_rank


def explain_non_finite(training: Training, batches: Sequence[PackedBatch], step: int, plan: StepPlan) -> str:
    """Describe where the values of a step became non-finite, and in which rows; collective over the world.

    The step was not applied, and its gradients are still there. Weights, gradients and random states do not change.

    Args:
        training: the model.
        batches: this rank's micro-batches of the step.
        step: its number, 0-based.
        plan: maps steps to rows.
    """
    activations = _of_all_ranks(_first_activation(training, batches))
    if activations:
        lines = [
            f"rank {first.ranks.rank}: {first.description}, {_rows_of(plan, step, first)}"
            for first in _first_of_each_replica(activations)
        ]
        more = [f"and {len(lines) - _MAX_RANKS} more ranks"] if len(lines) > _MAX_RANKS else []
        return "; ".join([*lines[:_MAX_RANKS], *more])
    gradients = _of_all_ranks(_first_gradient(training))
    rows = _rows_of_step(plan, step)
    if not gradients:
        return f"activations and gradients are finite without dropout, {rows}"
    first = min(gradients, key=lambda value: (*value.order, value.ranks.dp_rank))
    return f"activations are finite; rank {first.ranks.rank}: {first.description}, {rows}"


def _first_activation(training: Training, batches: Sequence[PackedBatch]) -> NonFinite | None:
    training.wrapped.eval()
    try:
        with torch.no_grad(), _watched(training) as first:
            run_schedule(training, batches, forward_only=True)
    finally:
        training.wrapped.train()
    return first[0] if first else None


@contextmanager
def _watched(training: Training) -> Iterator[list[NonFinite]]:
    """Yield a list that receives the first module of a forward pass whose output is not finite."""
    first: list[NonFinite] = []
    micro_batches, places = count(), count()
    current = [0]

    def start(module: torch.nn.Module, inputs: Any) -> None:
        current[0] = next(micro_batches)

    def check(name: str, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        place = next(places)
        if not first and not all(_is_finite(tensor) for tensor in _tensors(output)):
            description = f"activations are not finite from {_global_name(training, name) or 'the model'} on"
            broken = [own for own, value in module.named_parameters() if not _is_finite(value)]
            description += f", whose {broken[0]} is not finite" if broken else ""
            first.append(NonFinite(training.ranks, current[0], place, description))

    hooks = [training.model.register_forward_pre_hook(start)]
    for name, module in training.model.named_modules():
        hooks.append(module.register_forward_hook(partial(check, name)))
    try:
        yield first
    finally:
        for hook in hooks:
            hook.remove()


def _first_gradient(training: Training) -> NonFinite | None:
    for place, (name, parameter) in enumerate(training.model.named_parameters()):
        gradient = getattr(parameter, "main_grad", None)
        if gradient is not None and not _is_finite(gradient):
            return NonFinite(training.ranks, 0, place, f"the gradient of {_global_name(training, name)} is not finite")
    return None


def _global_name(training: Training, name: str) -> str:
    """Return a parameter's name with the layer's index in the whole model instead of in this pipeline stage."""
    layers = training.model.transformer.layers
    return re.sub(r"(?<=layers\.)\d+", lambda number: str(layers[int(number[0])].layer_number - 1), name, count=1)


def _of_all_ranks(own: NonFinite | None) -> list[NonFinite]:
    gathered: list[NonFinite | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, own)
    return [value for value in gathered if value is not None]


def _first_of_each_replica(values: list[NonFinite]) -> list[NonFinite]:
    replicas = sorted({value.ranks.dp_rank for value in values})
    of_replica = [[value for value in values if value.ranks.dp_rank == replica] for replica in replicas]
    return [min(each, key=lambda value: value.order) for each in of_replica]


def _rows_of(plan: StepPlan, step: int, value: NonFinite) -> str:
    """Return the rows of the micro-batch of a value, as positions in the training order."""
    micro_batches = plan.micro_batches(step, value.ranks.dp_rank, value.ranks.dp_size)
    return f"rows {in_ranges(micro_batches[value.micro_batch])}"


def _rows_of_step(plan: StepPlan, step: int) -> str:
    rows = plan.of(step)
    return f"rows {in_ranges(range(rows.start, rows.stop))}"


def in_ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers with consecutive ones joined to ranges.

    >>> in_ranges([4, 5, 6, 9])
    '4-6, 9'
    """
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (tuple, list)):
        for part in output:
            yield from _tensors(part)


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())
