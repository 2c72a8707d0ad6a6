"""One training step and one pass of evaluation, through megatron-core's schedules.

The loss is summed over scored positions and divided by their number in the whole global batch, however the batch is
split over micro-batches and ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from megatron_ettin.config.objectives import mask_kind_of
from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.model.packed_layout import PackedLayout
from megatron_ettin.optim.gradients import apply_gradients, squared_gradient_norm
from megatron_ettin.planning.model_size import training_flops
from megatron_ettin.train.build import Training


@dataclass(frozen=True)
class Sums:
    """Totals over all micro-batches and data-parallel ranks."""

    loss_sum: float
    """Negative log-likelihood in nats."""
    scored_tokens: int
    correct_tokens: int
    real_tokens: int
    model_flops: int = 0
    """Operations of a training step by the objective's own count; 0 of an evaluation."""

    @property
    def loss(self) -> float:
        """Mean loss per scored token."""
        return self.loss_sum / max(1, self.scored_tokens)

    @property
    def accuracy(self) -> float:
        """Share of scored tokens whose label is the most likely token."""
        return self.correct_tokens / max(1, self.scored_tokens)

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.loss_sum + other.loss_sum,
            self.scored_tokens + other.scored_tokens,
            self.correct_tokens + other.correct_tokens,
            self.real_tokens + other.real_tokens,
            self.model_flops + other.model_flops,
        )


@dataclass(frozen=True)
class StepResult:
    """What one step did."""

    sums: Sums
    gradient_norm: float
    applied: bool
    """Whether the weights moved: not where a loss or gradient is not finite, nor where the step was not allowed."""
    finite: bool = True
    """Whether loss and gradients are, on all ranks."""
    votes: tuple[bool, ...] = ()
    """What any rank voted for."""


LossFunction = Callable[[Any], tuple[Tensor, Tensor, Tensor]]
"""From what the last stage's model returns to loss, scored tokens and report."""


def train_step(
    training: Training,
    batches: Sequence[PackedBatch],
    learning_rate: float,
    votes: Callable[[], Sequence[bool]] = tuple,
    allows: Callable[[Sums], bool] = lambda sums: True,
) -> StepResult:
    """Run forward and backward over this rank's micro-batches and apply one optimizer step, if it is fit to be made.

    The host waits for the device once: for norm, totals and votes together, between backward and optimizer.

    Args:
        training: what to step.
        batches: this rank's micro-batches.
        learning_rate: of this step.
        votes: what this rank has to say to all, asked for after the backward pass; as many on every rank.
        allows: whether a step with these totals may be made; says the same on all ranks.
    """
    training.wrapped.train()
    training.wrapped.zero_grad_buffer()
    training.optimizer.zero_grad()
    reports = run_schedule(training, batches, forward_only=False)
    square = squared_gradient_norm(training.optimizer)
    work = sum(_model_flops(training.config, batch) for batch in batches)
    told = _total(training, batches, reports, square, work, votes())
    # Totals and votes are those of all ranks: each decides alike.
    finite = not told.broken and math.isfinite(told.sums.loss_sum)
    applied = finite and allows(told.sums)
    if applied:
        for group in training.optimizer.param_groups:
            group["lr"] = learning_rate
        apply_gradients(training.optimizer, told.norm)
    return StepResult(told.sums, told.norm, applied, finite, told.agreed)


@torch.no_grad()
def evaluate_batches(training: Training, batches: Sequence[PackedBatch]) -> Sums:
    """Score micro-batches without touching weights; data-parallel ranks may bring different numbers of them."""
    training.wrapped.eval()
    reports = run_schedule(training, batches, forward_only=True) if batches else []
    training.wrapped.train()
    return _total(training, batches, reports, torch.zeros((), device=training.device.torch_device)).sums


def run_schedule(training: Training, batches: Sequence[PackedBatch], *, forward_only: bool) -> list[Tensor]:
    """Run megatron-core's pipeline schedule; return each micro-batch's report on the last stage, [] before it."""
    schedule = get_forward_backward_func()
    # Sequence length and micro-batch size are those of a packed micro-batch; under a pipeline each sends its own shape.
    return schedule(
        forward_step_func=_forward_step,
        data_iterator=iter([_to_device(batch, training) for batch in batches]),
        model=[training.wrapped],
        num_microbatches=len(batches),
        seq_length=training.config.data.seq_length,
        micro_batch_size=1,
        forward_only=forward_only,
    )


@dataclass(frozen=True)
class _DeviceBatch:
    tokens_T: Tensor
    layout: PackedLayout
    scored_K: Tensor
    labels_K: Tensor


def _to_device(batch: PackedBatch, training: Training) -> _DeviceBatch:
    def move(array: Any) -> Tensor:
        return torch.from_numpy(array).to(training.device.torch_device, non_blocking=True)

    layout = PackedLayout.build(move(batch.cu_seqlens), move(batch.positions_T), batch.lengths)
    return _DeviceBatch(move(batch.tokens_T), layout, move(batch.scored_K), move(batch.labels_K))


def _forward_step(batches: Iterator[_DeviceBatch], model: torch.nn.Module) -> tuple[Tensor, LossFunction]:
    batch = next(batches)
    output = model(batch.tokens_T, batch.layout, batch.scored_K, batch.labels_K)

    def loss_function(output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        loss, correct = output
        scored = torch.full((), batch.labels_K.numel(), dtype=torch.int, device=loss.device)
        report = torch.stack((loss.detach().double(), scored.double(), correct.double()))
        return loss, scored, report

    return output, loss_function


def _model_flops(config: RunConfig, batch: PackedBatch) -> int:
    return training_flops(config.model, mask_kind_of(config.training.objective), batch.lengths, len(batch.scored_K))


@dataclass(frozen=True)
class _Totals:
    """What all ranks know after a step's backward pass."""

    sums: Sums
    norm: float
    """Of the gradients of this rank's replica."""
    broken: bool
    """Whether it is not finite on any rank."""
    agreed: tuple[bool, ...]
    """What any rank voted for."""


def _total(
    training: Training,
    batches: Sequence[PackedBatch],
    reports: list[Tensor],
    squared_norm: Tensor,
    work: int = 0,
    votes: Sequence[bool] = (),
) -> _Totals:
    """Add the reports up over the world, and read all that a step has to tell from the device at once.

    One rank of each data-parallel replica speaks for its tokens; every rank votes.
    """
    here, device = training.ranks, training.device.torch_device
    speaks = here.is_last_stage and here.tp_rank == 0
    reported = torch.zeros(3, dtype=torch.float64, device=device)
    for report in reports if speaks else ():
        reported += report
    own = (sum(batch.real_tokens for batch in batches), work) if speaks else (0, 0)
    from_host = torch.tensor([*own, *votes], dtype=torch.float64).to(device, non_blocking=True)
    total = torch.cat((reported, from_host, ~squared_norm.isfinite().reshape(1)))
    torch.distributed.all_reduce(total)
    values = torch.cat((total, squared_norm.reshape(1))).tolist()
    loss_sum, scored, correct, real, flops, *voted, broken, square = values
    sums = Sums(loss_sum, int(scored), int(correct), int(real), int(flops))
    return _Totals(sums, square**0.5, broken > 0, tuple(count > 0 for count in voted))
