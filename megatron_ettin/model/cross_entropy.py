"""Cross-entropy over a sharded vocabulary without storing all logits.

Logits of a chunk of rows are computed, reduced and turned into gradients before the next chunk. On a GPU each reduction
is one compiled pass over the logits in their own precision. On a CPU exponentials dominate the cost, so they are
computed once, in place, and the gradient only scales them.

Shapes: K scored positions, k rows of a chunk, H hidden, V vocabulary rows of this rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional as F

from megatron_ettin.config.backend import LOGITS_CHUNK_BYTES
from megatron_ettin.model.compiled import fused

_CACHED_BYTES = 1 << 20
"""Logits that a CPU processes at a time, so that they stay in its cache through max, exp and sum."""


def scored_cross_entropy(
    hidden_KH: Tensor, weight_VH: Tensor, bias_V: Tensor, labels_K: Tensor, group: ProcessGroup, *, true_rows: int
) -> tuple[Tensor, Tensor]:
    """Return the summed negative log-likelihood of the labels (nats, fp32) and the number of correct predictions.

    The prediction is the token with the largest logit; of equal logits, common in bf16, the one with the smallest id.
    With K = 0 both results are 0.

    Args:
        hidden_KH: input of the output layer, the same on every tensor-parallel rank.
        weight_VH: this rank's rows of the output matrix, in rank order.
        bias_V: the bias of these rows.
        labels_K: target tokens, numbered over the full vocabulary.
        group: the tensor-parallel group.
        true_rows: number of this rank's rows that are not padding; padding must not enter the softmax.
    """
    output = _OutputRows(weight_VH, bias_V, group, true_rows)
    return _ScoredCrossEntropy.apply(hidden_KH, weight_VH, bias_V, labels_K, output)


@dataclass(frozen=True)
class _OutputRows:
    """This rank's part of the output layer."""

    weight_VH: Tensor
    bias_V: Tensor
    group: ProcessGroup
    true_rows: int

    def logits(self, hidden_kH: Tensor) -> Tensor:
        logits_kV = F.linear(hidden_kH, self.weight_VH, self.bias_V)
        if self.true_rows < logits_kV.size(1):
            logits_kV[:, self.true_rows :] = float("-inf")
        return logits_kV

    def rows_of(self, labels_k: Tensor) -> Tensor:
        """Return the local row of each label, -1 where another rank has it."""
        local = labels_k - self.group.rank() * self.weight_VH.size(0)
        return torch.where((local >= 0) & (local < self.weight_VH.size(0)), local, -1)


class _ScoredCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_KH: Tensor, weight_VH: Tensor, bias_V: Tensor, labels_K: Tensor, output: _OutputRows
    ) -> tuple[Tensor, Tensor]:
        gradients = _Gradients.zeros(hidden_KH, output) if any(ctx.needs_input_grad) else None
        loss = torch.zeros((), dtype=torch.float64, device=hidden_KH.device)
        correct = torch.zeros((), dtype=torch.int64, device=hidden_KH.device)
        rows = _chunk_rows(weight_VH)
        for first in range(0, len(hidden_KH), rows):
            chunk = slice(first, first + rows)
            logits_kV, row_k = output.logits(hidden_KH[chunk]), output.rows_of(labels_K[chunk])
            work_kV, local = sum_rows(logits_kV, row_k)
            is_correct_k, log_total_k, label_logit_k = _merge(local, output.group)
            loss += (log_total_k - label_logit_k).sum(dtype=torch.float64)
            correct += is_correct_k.sum()
            if gradients is not None:
                slope_kV = softmax_minus_target(work_kV, local, log_total_k, row_k, logits_kV.dtype)
                gradients.add(chunk, slope_kV, hidden_KH[chunk])
        if gradients is not None:
            ctx.gradients = gradients.finish()
        ctx.mark_non_differentiable(correct)
        return loss.float(), correct

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scale = gradients[0]
        # In place: a second backward through the same graph is not possible.
        hidden, weight, bias = (gradient.mul_(scale.to(gradient.dtype)) for gradient in ctx.gradients)
        del ctx.gradients
        return hidden, weight, bias, None, None


def _chunk_rows(weight_VH: Tensor) -> int:
    return max(1, LOGITS_CHUNK_BYTES[weight_VH.device.type] // (weight_VH.size(0) * weight_VH.element_size()))


@dataclass
class _Gradients:
    """Gradients of the loss, accumulated over chunks; those of matrix and bias in fp32."""

    hidden_KH: Tensor
    weight_VH: Tensor
    bias_V: Tensor
    output: _OutputRows

    @classmethod
    def zeros(cls, hidden_KH: Tensor, output: _OutputRows) -> _Gradients:
        weight = torch.zeros_like(output.weight_VH, dtype=torch.float32)
        bias = torch.zeros_like(output.bias_V, dtype=torch.float32)
        return cls(torch.empty_like(hidden_KH), weight, bias, output)

    def add(self, chunk: slice, slope_kV: Tensor, hidden_kH: Tensor) -> None:
        """Accumulate from the gradient of one chunk's logits."""
        torch.mm(slope_kV, self.output.weight_VH, out=self.hidden_KH[chunk])
        self.bias_V += slope_kV.sum(0, dtype=torch.float32)
        if slope_kV.dtype == torch.float32:
            self.weight_VH.addmm_(slope_kV.t(), hidden_kH)
        elif slope_kV.is_cuda:
            self.weight_VH += torch.mm(slope_kV.t(), hidden_kH, out_dtype=torch.float32)
        else:
            self.weight_VH += torch.mm(slope_kV.t(), hidden_kH)

    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients in their parameters' types; that of the hidden states is summed over ranks."""
        if self.output.group.size() > 1:
            torch.distributed.all_reduce(self.hidden_KH, group=self.output.group)
        weight, bias = self.output.weight_VH, self.output.bias_V
        return self.hidden_KH, self.weight_VH.to(weight.dtype), self.bias_V.to(bias.dtype)


def _merge(local: RowSums, group: ProcessGroup) -> tuple[Tensor, Tensor, Tensor]:
    """Return, over the full vocabulary, whether each row's label is predicted, its log-sum-exp and its label logit."""
    if group.size() == 1:
        return local.is_best_k, local.total_k.log() + local.best_k, local.label_logit_k
    stacked = torch.stack((local.best_k, local.total_k, local.label_logit_k, local.is_best_k.float()))
    parts = [torch.empty_like(stacked) for _ in range(group.size())]
    torch.distributed.all_gather(parts, stacked, group=group)
    bests, totals, label_logits, are_best = torch.stack(parts).unbind(1)
    best_k, rank_k = bests.max(dim=0)  # of equal logits the first rank's, which has the smaller ids
    log_total_k = (totals * (bests - best_k).exp()).sum(0).log() + best_k
    return are_best.gather(0, rank_k[None])[0] > 0, log_total_k, label_logits.max(dim=0).values


@dataclass(frozen=True)
class RowSums:
    """Reductions of each row over this rank's vocabulary rows, in fp32."""

    best_k: Tensor
    """The largest logit."""
    total_k: Tensor
    """The sum of exp(logit - best)."""
    label_logit_k: Tensor
    """The logit of the label, -inf where another rank has it."""
    is_best_k: Tensor
    """Whether the label is the first of this rank's columns with the largest logit."""


def sum_rows(logits_kV: Tensor, row_k: Tensor) -> tuple[Tensor, RowSums]:
    """Return the intermediate values for :func:`softmax_minus_target`, and the reductions of each row.

    Args:
        logits_kV: overwritten.
        row_k: the column of each label, -1 where another rank has it.
    """
    if logits_kV.is_cuda:
        return logits_kV, RowSums(*_sum_rows(logits_kV, row_k))
    work_kV = logits_kV.float()
    label_logit_k = _label_logit(work_kV, row_k)
    rows = max(1, _CACHED_BYTES // (work_kV.size(1) * work_kV.element_size()))
    columns = zip(*map(_exponentiate, work_kV.split(rows)), strict=True)
    best_k, total_k, column_k = (torch.cat(parts) for parts in columns)
    return work_kV, RowSums(best_k, total_k, label_logit_k, column_k == row_k)


def softmax_minus_target(
    work_kV: Tensor, local: RowSums, log_total_k: Tensor, row_k: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return the gradient of the summed loss with respect to the logits.

    Args:
        work_kV: from :func:`sum_rows`; overwritten.
        local: from :func:`sum_rows`.
        log_total_k: log of the sum of exp(logit) over the full vocabulary.
        row_k: the column of each label, -1 where another rank has it.
        dtype: type of the logits and of the gradient.
    """
    if work_kV.is_cuda:
        return _softmax_minus_target(work_kV, log_total_k, row_k)
    # exp(logit - local best) * exp(local best - log total) = softmax over the full vocabulary.
    work_kV.mul_((local.best_k - log_total_k).exp()[:, None])
    work_kV.scatter_add_(1, row_k.clamp_min(0)[:, None], -(row_k >= 0).to(work_kV.dtype)[:, None])
    return work_kV.to(dtype)


@fused
def _sum_rows(logits_kV: Tensor, row_k: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    wide_kV = logits_kV.float()
    best_k, column_k = wide_kV.max(dim=-1)  # the first of equal ones
    best_k = _finite(best_k)
    return best_k, (wide_kV - best_k[:, None]).exp().sum(-1), _label_logit(wide_kV, row_k), column_k == row_k


@fused
def _softmax_minus_target(logits_kV: Tensor, log_total_k: Tensor, row_k: Tensor) -> Tensor:
    share_kV = (logits_kV.float() - log_total_k[:, None]).exp()
    column_V = torch.arange(logits_kV.size(1), device=logits_kV.device)
    return torch.where(column_V == row_k[:, None], share_kV - 1.0, share_kV).to(logits_kV.dtype)


def _exponentiate(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    best, column = rows.max(dim=-1)  # the first of equal ones
    best = _finite(best)
    rows.sub_(best[:, None]).exp_()
    return best, rows.sum(-1), column


def _finite(best_k: Tensor) -> Tensor:
    """Replace -inf: a rank with padded rows only has no finite logit, and its sum must be 0, not NaN."""
    return best_k.clamp_min(torch.finfo(best_k.dtype).min)


def _label_logit(wide_kV: Tensor, row_k: Tensor) -> Tensor:
    return wide_kV.gather(1, row_k.clamp_min(0)[:, None])[:, 0].masked_fill(row_k < 0, float("-inf"))
