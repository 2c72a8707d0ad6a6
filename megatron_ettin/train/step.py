"""One training step and one pass of evaluation, through megatron-core's schedules.

The loss is summed over scored positions and divided by their number in the whole global batch, however the batch is
split over micro-batches and ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.model.loss import scored_cross_entropy
from megatron_ettin.model.packing import PackedLayout
from megatron_ettin.train.build import Training
from megatron_ettin.train.results import StepResult, Sums

LossFunction = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def train_step(training: Training, batches: Sequence[PackedBatch], learning_rate: float) -> StepResult:
    """Run forward and backward over this rank's micro-batches and apply one optimizer step."""
    training.wrapped.train()
    training.wrapped.zero_grad_buffer()
    training.optimizer.zero_grad()
    reports = run_schedule(training, batches, forward_only=False)
    for group in training.optimizer.param_groups:
        group["lr"] = learning_rate
    applied, gradient_norm, _ = training.optimizer.step()
    return StepResult(_total(training, batches, reports), float(gradient_norm or 0.0), bool(applied))


@torch.no_grad()
def evaluate_batches(training: Training, batches: Sequence[PackedBatch]) -> Sums:
    """Score micro-batches without touching weights; data-parallel ranks may bring different numbers of them."""
    training.wrapped.eval()
    reports = run_schedule(training, batches, forward_only=True) if batches else []
    training.wrapped.train()
    return _total(training, batches, reports)


def run_schedule(training: Training, batches: Sequence[PackedBatch], *, forward_only: bool) -> list[Tensor]:
    """Run megatron-core's pipeline schedule; return each micro-batch's report on the last stage, [] before it."""
    schedule = get_forward_backward_func()
    # Sequence length and micro-batch size are those of a packed micro-batch; under a pipeline each sends its own shape.
    return schedule(
        forward_step_func=_forward_step,
        data_iterator=iter([_to_device(batch, training) for batch in batches]),
        model=[training.wrapped],
        num_microbatches=len(batches),
        seq_length=training.run.data.seq_length,
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

    lengths = tuple((batch.cu_seqlens[1:] - batch.cu_seqlens[:-1]).tolist())
    layout = PackedLayout.build(move(batch.cu_seqlens), move(batch.positions_T), lengths)
    return _DeviceBatch(move(batch.tokens_T), layout, move(batch.scored_K), move(batch.labels_K))


def _forward_step(batches: Iterator[_DeviceBatch], model: torch.nn.Module) -> tuple[Tensor, LossFunction]:
    batch = next(batches)
    output = model(batch.tokens_T, batch.layout, batch.scored_K)

    def loss_function(logits_KV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loss, correct = scored_cross_entropy(
            logits_KV, batch.labels_K, parallel_state.get_tensor_model_parallel_group()
        )
        scored = torch.tensor(batch.labels_K.numel(), dtype=torch.int, device=loss.device)
        report = torch.stack((loss.detach().double(), scored.double(), correct.double()))
        return loss, scored, report

    return output, loss_function


def _total(training: Training, batches: Sequence[PackedBatch], reports: list[Tensor]) -> Sums:
    """Add the reports up over the world; one rank of each data-parallel replica speaks for it."""
    here = training.ranks
    total = torch.zeros(4, dtype=torch.float64, device=training.device.torch_device)
    if here.is_last_stage and here.tp_rank == 0:
        for report in reports:
            total[:3] += report
        total[3] = sum(batch.real_tokens for batch in batches)
    torch.distributed.all_reduce(total)
    loss_sum, scored, correct, real = total.tolist()
    return Sums(loss_sum, int(scored), int(correct), int(real))
