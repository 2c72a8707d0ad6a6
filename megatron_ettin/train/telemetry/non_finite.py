"""Where values that are not finite come from, found by a second pass over the same micro-batches."""

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

_FEW = 4
"""Ranks that are told of."""


@dataclass(frozen=True)
class Finding:
    """What one rank found first."""

    ranks: Ranks
    micro_batch: int
    """Its number in the step of this rank."""
    place: int
    """What this rank computes earlier has a smaller number."""
    what: str

    @property
    def order(self) -> tuple[int, int, int, int]:
        """What comes before what in one replica of the model."""
        return self.micro_batch, self.ranks.pp_rank, self.place, self.ranks.tp_rank


def explain_non_finite(training: Training, batches: Sequence[PackedBatch], step: int, plan: StepPlan) -> str:
    """Return in words where a step's values ceased to be finite, and in which rows; collective over the world.

    The step was not applied and its gradients are still there. Weights, gradients and random states stay as they are.

    Args:
        training: what the step was made with.
        batches: this rank's micro-batches of the step.
        step: its number, 0-based.
        plan: tells the rows of a step.
    """
    found = _of_all_ranks(_first_activation(training, batches))
    if found:
        told = [
            f"rank {finding.ranks.rank}: {finding.what}, {_rows_of(plan, step, finding)}"
            for finding in _first_of_each_replica(found)
        ]
        more = [f"and {len(told) - _FEW} more ranks"] if len(told) > _FEW else []
        return "; ".join([*told[:_FEW], *more])
    found = _of_all_ranks(_first_gradient(training))
    rows = _rows_of_step(plan, step)
    if not found:
        return f"activations and gradients are finite without dropout, {rows}"
    first = min(found, key=lambda finding: (*finding.order, finding.ranks.dp_rank))
    return f"activations are finite; rank {first.ranks.rank}: {first.what}, {rows}"


def _first_activation(training: Training, batches: Sequence[PackedBatch]) -> Finding | None:
    training.wrapped.eval()
    try:
        with torch.no_grad(), _watched(training) as found:
            run_schedule(training, batches, forward_only=True)
    finally:
        training.wrapped.train()
    return found[0] if found else None


@contextmanager
def _watched(training: Training) -> Iterator[list[Finding]]:
    """Note, while a pass is made, every module whose output is not finite, in the order of computation."""
    found: list[Finding] = []
    micro_batches, places = count(), count()
    here = [0]

    def begin(module: torch.nn.Module, inputs: Any) -> None:
        here[0] = next(micro_batches)

    def check(name: str, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        place = next(places)
        if not found and not all(_is_finite(tensor) for tensor in _tensors(output)):
            what = f"activations are not finite from {_global_name(training, name) or 'the model'} on"
            broken = [own for own, value in module.named_parameters() if not _is_finite(value)]
            what += f", whose {broken[0]} is not finite" if broken else ""
            found.append(Finding(training.ranks, here[0], place, what))

    hooks = [training.model.register_forward_pre_hook(begin)]
    for name, module in training.model.named_modules():
        hooks.append(module.register_forward_hook(partial(check, name)))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _first_gradient(training: Training) -> Finding | None:
    for place, (name, parameter) in enumerate(training.model.named_parameters()):
        gradient = getattr(parameter, "main_grad", None)
        if gradient is not None and not _is_finite(gradient):
            return Finding(training.ranks, 0, place, f"the gradient of {_global_name(training, name)} is not finite")
    return None


def _global_name(training: Training, name: str) -> str:
    """Return a name with its layer's number in the whole model, where a pipeline stage counts its own from 0."""
    layers = training.model.transformer.layers
    return re.sub(r"(?<=layers\.)\d+", lambda number: str(layers[int(number[0])].layer_number - 1), name, count=1)


def _of_all_ranks(finding: Finding | None) -> list[Finding]:
    gathered: list[Finding | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, finding)
    return [each for each in gathered if each is not None]


def _first_of_each_replica(found: list[Finding]) -> list[Finding]:
    replicas = sorted({finding.ranks.dp_rank for finding in found})
    of_replica = [[finding for finding in found if finding.ranks.dp_rank == replica] for replica in replicas]
    return [min(findings, key=lambda finding: finding.order) for findings in of_replica]


def _rows_of(plan: StepPlan, step: int, finding: Finding) -> str:
    """Return the rows of the micro-batch that something was found in, as positions in the training order."""
    micro_batches = plan.micro_batches(step, finding.ranks.dp_rank, finding.ranks.dp_size)
    return f"rows {in_ranges(micro_batches[finding.micro_batch])}"


def _rows_of_step(plan: StepPlan, step: int) -> str:
    rows = plan.of(step)
    return f"rows {in_ranges(range(rows.start, rows.stop))}"


def in_ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers with those that follow one another drawn together.

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
