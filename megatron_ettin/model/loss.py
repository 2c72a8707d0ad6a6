"""Output matrix and cross-entropy in one, over a vocabulary that is split over tensor-parallel ranks.

Logits are the largest tensor of a small model by far: 50,368 for every scored position. They are made in pieces, and
each piece is turned into its loss and at once into its gradient, so that backward has nothing left to compute and no
piece outlives the next. What tensor-parallel ranks tell each other is three numbers a position.

Shapes: K scored positions, H hidden, V vocabulary rows of this rank, k rows of a piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional as F

from megatron_ettin.config.memory import LOGITS_PIECE_BYTES
from megatron_ettin.model.softmax import RowSums, softmax_minus_target, sum_rows


def scored_cross_entropy(
    hidden_KH: Tensor, weight_VH: Tensor, bias_V: Tensor, labels_K: Tensor, group: ProcessGroup, *, true_rows: int
) -> tuple[Tensor, Tensor]:
    """Return the summed negative log-likelihood of the labels (nats, fp32) and how many labels no token surpasses.

    With K = 0 both results are 0.

    Args:
        hidden_KH: what the output matrix takes, whole on every tensor-parallel rank.
        weight_VH: this rank's rows of the output matrix, in rank order.
        bias_V: the bias of these rows.
        labels_K: right tokens, numbered over the whole vocabulary.
        group: the tensor-parallel group.
        true_rows: how many of this rank's rows stand for a token; the rest pads and must not enter the softmax.
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
        """Return the local row of each label, -1 where another rank holds it."""
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
        rows = _rows_of_a_piece(weight_VH)
        for first in range(0, len(hidden_KH), rows):
            piece = slice(first, first + rows)
            logits_kV, row_k = output.logits(hidden_KH[piece]), output.rows_of(labels_K[piece])
            work_kV, mine = sum_rows(logits_kV, row_k)
            best_k, log_total_k, label_logit_k = _merge(mine, output.group)
            loss += (log_total_k - label_logit_k).sum(dtype=torch.float64)
            correct += (label_logit_k >= best_k).sum()
            if gradients is not None:
                slope_kV = softmax_minus_target(work_kV, mine, log_total_k, row_k, logits_kV.dtype)
                gradients.add(piece, slope_kV, hidden_KH[piece])
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


def _rows_of_a_piece(weight_VH: Tensor) -> int:
    return max(1, LOGITS_PIECE_BYTES[weight_VH.device.type] // (weight_VH.size(0) * weight_VH.element_size()))


@dataclass
class _Gradients:
    """Gradients of the loss as they grow piece by piece; over several pieces of half precision in fp32."""

    hidden_KH: Tensor
    weight_VH: Tensor
    bias_V: Tensor
    output: _OutputRows

    @classmethod
    def zeros(cls, hidden_KH: Tensor, output: _OutputRows) -> _Gradients:
        weight = torch.zeros_like(output.weight_VH, dtype=torch.float32)
        bias = torch.zeros_like(output.bias_V, dtype=torch.float32)
        return cls(torch.empty_like(hidden_KH), weight, bias, output)

    def add(self, piece: slice, slope_kV: Tensor, hidden_kH: Tensor) -> None:
        """Take the gradient of one piece's logits."""
        torch.mm(slope_kV, self.output.weight_VH, out=self.hidden_KH[piece])
        self.bias_V += slope_kV.sum(0, dtype=torch.float32)
        if slope_kV.dtype == torch.float32:
            self.weight_VH.addmm_(slope_kV.t(), hidden_kH)
        elif slope_kV.is_cuda:
            self.weight_VH += torch.mm(slope_kV.t(), hidden_kH, out_dtype=torch.float32)
        else:
            self.weight_VH += torch.mm(slope_kV.t(), hidden_kH)

    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients in their parameters' types; that of the hidden states is a sum over ranks."""
        if self.output.group.size() > 1:
            torch.distributed.all_reduce(self.hidden_KH, group=self.output.group)
        weight, bias = self.output.weight_VH, self.output.bias_V
        return self.hidden_KH, self.weight_VH.to(weight.dtype), self.bias_V.to(bias.dtype)


def _merge(mine: RowSums, group: ProcessGroup) -> tuple[Tensor, Tensor, Tensor]:
    """Return, over the whole vocabulary, each row's largest logit, log of the summed exponentials and label's logit."""
    if group.size() == 1:
        return mine.best_k, mine.total_k.log() + mine.best_k, mine.label_logit_k
    found = torch.stack((mine.best_k, mine.total_k, mine.label_logit_k))
    parts = [torch.empty_like(found) for _ in range(group.size())]
    torch.distributed.all_gather(parts, found, group=group)
    bests, totals, label_logits = torch.stack(parts).unbind(1)
    best_k = bests.max(dim=0).values
    log_total_k = (totals * (bests - best_k).exp()).sum(0).log() + best_k
    return best_k, log_total_k, label_logits.max(dim=0).values
