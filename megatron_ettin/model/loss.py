"""Cross-entropy over a vocabulary that is split over tensor-parallel ranks, and how often the best token is right.

Each rank goes over its part of the logits once; what the ranks tell each other is four numbers a position.

Shapes: K scored positions, V vocabulary rows of this rank.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.distributed import ProcessGroup

CPU_CHUNK_BYTES = 1 << 20
"""On a CPU, rows are worked off in pieces that stay in its cache through max, exp and sum."""


def scored_cross_entropy(logits_KV: Tensor, labels_K: Tensor, group: ProcessGroup) -> tuple[Tensor, Tensor]:
    """Return the summed negative log-likelihood of the labels (nats, fp32) and how many labels are the best token.

    The memory of fp32 ``logits_KV`` is reused, so its values are gone after the call. With K = 0 both results are 0.

    Args:
        logits_KV: this rank's rows of the vocabulary, in rank order; -inf for rows that only pad.
        labels_K: right tokens, numbered over the whole vocabulary.
        group: the tensor-parallel group.
    """
    return _ScoredCrossEntropy.apply(logits_KV, labels_K, group)


class _ScoredCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_KV: Tensor, labels_K: Tensor, group: ProcessGroup) -> tuple[Tensor, Tensor]:
        first_row = group.rank() * logits_KV.size(1)
        mine_K = (labels_K >= first_row) & (labels_K < first_row + logits_KV.size(1))
        row_K = torch.where(mine_K, labels_K - first_row, 0)
        work_KV = logits_KV.detach().float()
        label_logit_K = work_KV.gather(1, row_K[:, None])[:, 0].masked_fill(~mine_K, float("-inf"))
        best_K, index_K, total_K = _exponentiate_rows(work_KV)

        found_4K = torch.stack((best_K.double(), index_K + first_row, total_K.double(), label_logit_K.double()))
        bests, indices, totals, label_logits = _gather(found_4K, group).unbind(1)
        best, winner = bests.max(dim=0)
        log_total = (totals * (bests - best).exp()).sum(0).log() + best
        loss = (log_total - label_logits.max(dim=0).values).sum()
        correct = (indices.gather(0, winner[None])[0] == labels_K).sum()

        # exp(logit - local best) * scale = softmax over the whole vocabulary.
        scale_K = (best_K - log_total).exp().float()
        ctx.save_for_backward(work_KV, scale_K, mine_K, row_K)
        ctx.dtype = logits_KV.dtype
        ctx.mark_non_differentiable(correct)
        return loss.float(), correct

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        exponentials_KV, scale_K, mine_K, row_K = ctx.saved_tensors
        grad_loss = gradients[0]
        # Softmax minus one at the label, in place: the exponentials are not needed again.
        grad_KV = exponentials_KV.mul_((scale_K * grad_loss)[:, None])
        grad_KV.scatter_add_(1, row_K[:, None], torch.where(mine_K, -grad_loss, 0.0)[:, None].to(grad_KV.dtype))
        return grad_KV.to(ctx.dtype), None, None


def _exponentiate_rows(work_KV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Replace each row by exp(row - its maximum); return maxima, their indices and the rows' sums."""
    num_rows = len(work_KV)
    if work_KV.device.type == "cpu":
        num_rows = max(1, CPU_CHUNK_BYTES // (work_KV.size(1) * work_KV.element_size()))
    found = [_exponentiate(rows) for rows in work_KV.split(max(1, num_rows))]
    best, index, total = (torch.cat(parts) for parts in zip(*found, strict=True))
    return best, index, total


def _exponentiate(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    best, index = rows.max(dim=-1)
    # A rank that holds nothing but padding has no finite logit; its sum must be 0, not NaN.
    best = best.clamp_min(torch.finfo(best.dtype).min)
    rows.sub_(best[:, None]).exp_()
    return best, index, rows.sum(-1)


def _gather(tensor: Tensor, group: ProcessGroup) -> Tensor:
    """Stack the ranks' tensors along a new first axis, in rank order."""
    if group.size() == 1:
        return tensor[None]
    parts = [torch.empty_like(tensor) for _ in range(group.size())]
    torch.distributed.all_gather(parts, tensor, group=group)
    return torch.stack(parts)
