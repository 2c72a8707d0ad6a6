"""One training step and one pass of evaluation, through megatron-core's schedules.

The loss is summed over scored positions and divided by their number in the global batch, independently of how the
batch is split over micro-batches and ranks.
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
    """Model FLOPs of a training step, without recomputation; 0 for an evaluation."""

    @property
    def loss(self) -> float:
        """Mean loss per scored token."""
        return self.loss_sum / max(1, self.scored_tokens)

    @property
    def accuracy(self) -> float:
        """Share of scored tokens whose label gets the highest logit."""
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
    """Result of one step, the same on all ranks but for the norm of a replica."""

    sums: Sums
    gradient_norm: float
    applied: bool
    """Whether the optimizer step was made: loss and gradients are finite, and the step was allowed."""
    finite: bool = True
    """Whether loss and gradients are finite on all ranks."""
    votes: tuple[bool, ...] = ()
    """Whether any rank voted for each option."""


LossFunction = Callable[[Any], tuple[Tensor, Tensor, Tensor]]
"""Maps the output of the last stage to loss, number of scored tokens and report."""


def train_step(
    training: Training,
    batches: Sequence[PackedBatch],
    learning_rate: float,
    votes: Callable[[], Sequence[bool]] = tuple,
    allows: Callable[[Sums], bool] = lambda sums: True,
) -> StepResult:
    """Run forward and backward over this rank's micro-batches and, unless the step is skipped, the optimizer.

    The host waits for the device once, between backward and optimizer: for norm, totals and votes together.

    Args:
        training: model and optimizer.
        batches: this rank's micro-batches.
        learning_rate: of this step.
        votes: returns this rank's votes after the backward pass; their number is the same on all ranks.
        allows: whether a step with these totals is applied; all ranks must agree.
    """
    training.wrapped.train()
    training.wrapped.zero_grad_buffer()
    training.optimizer.zero_grad()
    reports = run_schedule(training, batches, forward_only=False)
    square = squared_gradient_norm(training.optimizer)
    flops = sum(_model_flops(training.config, batch) for batch in batches)
    totals = _total(training, batches, reports, square, flops, votes())
    # All ranks have the same totals and votes, and so decide the same.
    finite = totals.gradients_finite and math.isfinite(totals.sums.loss_sum)
    applied = finite and allows(totals.sums)
    if applied:
        for group in training.optimizer.param_groups:
            group["lr"] = learning_rate
        apply_gradients(training.optimizer, totals.gradient_norm)
    return StepResult(totals.sums, totals.gradient_norm, applied, finite, totals.votes)


@torch.no_grad()
def evaluate_batches(training: Training, batches: Sequence[PackedBatch]) -> Sums:
    """Score micro-batches without changing weights; their number may differ between data-parallel ranks."""
    training.wrapped.eval()
    reports = run_schedule(training, batches, forward_only=True) if batches else []
    training.wrapped.train()
    return _total(training, batches, reports, torch.zeros((), device=training.device.torch_device)).sums


def run_schedule(training: Training, batches: Sequence[PackedBatch], *, forward_only: bool) -> list[Tensor]:
    """Run megatron-core's pipeline schedule; return each micro-batch's report on the last stage, [] before it."""
    schedule = get_forward_backward_func()
    # A packed micro-batch is one sequence; under pipeline parallelism, each sends its own shape.
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
    rows: int
    """What the mean of this micro-batch counts in the loss of the global batch; 0 counts each scored token once."""


def _to_device(batch: PackedBatch, training: Training) -> _DeviceBatch:
    def move(array: Any) -> Tensor:
        return torch.from_numpy(array).to(training.device.torch_device, non_blocking=True)

    layout = PackedLayout.build(move(batch.cu_seqlens), move(batch.positions_T), batch.lengths)
    rows = batch.num_rows if training.config.training.loss_normalization == "authors" else 0
    return _DeviceBatch(move(batch.tokens_T), layout, move(batch.scored_K), move(batch.labels_K), rows)


def _forward_step(batches: Iterator[_DeviceBatch], model: torch.nn.Module) -> tuple[Tensor, LossFunction]:
    batch = next(batches)
    output = model(batch.tokens_T, batch.layout, batch.scored_K, batch.labels_K)

    def loss_function(output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        loss, correct = output
        scored = torch.full((), batch.labels_K.numel(), dtype=torch.int, device=loss.device)
        report = torch.stack((loss.detach().double(), scored.double(), correct.double()))
        if batch.rows:
            weight = torch.full((), batch.rows, dtype=torch.int, device=loss.device)
            return loss * (batch.rows / max(1, batch.labels_K.numel())), weight, report
        return loss, scored, report

    return output, loss_function


def _model_flops(config: RunConfig, batch: PackedBatch) -> int:
    return training_flops(config.model, mask_kind_of(config.training.objective), batch.lengths, len(batch.scored_K))


@dataclass(frozen=True)
class _Totals:
    """Totals over all ranks after the backward pass of a step."""

    sums: Sums
    gradient_norm: float
    """Of this rank's replica."""
    gradients_finite: bool
    """On all ranks."""
    votes: tuple[bool, ...]
    """Whether any rank voted for each option."""


def _total(
    training: Training,
    batches: Sequence[PackedBatch],
    reports: list[Tensor],
    squared_norm: Tensor,
    model_flops: int = 0,
    votes: Sequence[bool] = (),
) -> _Totals:
    """Sum reports and votes over all ranks and read the results from the device in one transfer.

    One rank of each data-parallel replica counts its tokens; every rank votes.
    """
    ranks, device = training.ranks, training.device.torch_device
    counts = ranks.is_last_stage and ranks.tp_rank == 0
    reported = torch.zeros(3, dtype=torch.float64, device=device)
    for report in reports if counts else ():
        reported += report
    own = (sum(batch.real_tokens for batch in batches), model_flops) if counts else (0, 0)
    from_host = torch.tensor([*own, *votes], dtype=torch.float64).to(device, non_blocking=True)
    total = torch.cat((reported, from_host, ~squared_norm.isfinite().reshape(1)))
    torch.distributed.all_reduce(total)
    values = torch.cat((total, squared_norm.reshape(1))).tolist()
    loss_sum, scored, correct, real, flops, *voters, non_finite, square = values
    sums = Sums(loss_sum, int(scored), int(correct), int(real), int(flops))
    return _Totals(sums, square**0.5, non_finite == 0, tuple(count > 0 for count in voters))
