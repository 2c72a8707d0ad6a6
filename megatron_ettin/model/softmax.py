"""The row operations of a cross-entropy: sums over a row of logits, and the gradient.

On a GPU each is one compiled pass that keeps the logits in their own precision. On a CPU exponentials are the cost, so
they are computed once, in place, and the gradient only scales them.

Shapes: k rows, V vocabulary rows of this rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_ettin.model.fused import fused

_CACHED_BYTES = 1 << 20
"""On a CPU, rows are worked off in pieces that stay in its cache through max, exp and sum."""


@dataclass(frozen=True)
class RowSums:
    """What a rank knows of each row, in fp32."""

    best_k: Tensor
    """The largest logit."""
    total_k: Tensor
    """The sum of exp(logit - best)."""
    label_logit_k: Tensor
    """The logit of the label, -inf where another rank holds it."""


def sum_rows(logits_kV: Tensor, row_k: Tensor) -> tuple[Tensor, RowSums]:
    """Return the sums over each row, and what :func:`softmax_minus_target` wants to be given.

    Args:
        logits_kV: is used up.
        row_k: the column of each label, -1 where another rank holds it.
    """
    if logits_kV.is_cuda:
        return logits_kV, RowSums(*_sum_rows(logits_kV, row_k))
    work_kV = logits_kV.float()
    label_logit_k = _label_logit(work_kV, row_k)
    rows = max(1, _CACHED_BYTES // (work_kV.size(1) * work_kV.element_size()))
    best_k, total_k = (torch.cat(parts) for parts in zip(*map(_exponentiate, work_kV.split(rows)), strict=True))
    return work_kV, RowSums(best_k, total_k, label_logit_k)


def softmax_minus_target(
    work_kV: Tensor, mine: RowSums, log_total_k: Tensor, row_k: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return the gradient of the summed loss by the logits.

    Args:
        work_kV: from :func:`sum_rows`; is used up.
        mine: likewise.
        log_total_k: log of the sum of exp(logit) over the whole vocabulary.
        row_k: the column of each label, -1 where another rank holds it.
        dtype: of the logits, which the gradient gets too.
    """
    if work_kV.is_cuda:
        return _softmax_minus_target(work_kV, log_total_k, row_k)
    # exp(logit - local best) * exp(local best - log total) = softmax over the whole vocabulary.
    work_kV.mul_((mine.best_k - log_total_k).exp()[:, None])
    work_kV.scatter_add_(1, row_k.clamp_min(0)[:, None], -(row_k >= 0).to(work_kV.dtype)[:, None])
    return work_kV.to(dtype)


@fused
def _sum_rows(logits_kV: Tensor, row_k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    wide_kV = logits_kV.float()
    best_k = _finite(wide_kV.amax(dim=-1))
    return best_k, (wide_kV - best_k[:, None]).exp().sum(-1), _label_logit(wide_kV, row_k)


@fused
def _softmax_minus_target(logits_kV: Tensor, log_total_k: Tensor, row_k: Tensor) -> Tensor:
    share_kV = (logits_kV.float() - log_total_k[:, None]).exp()
    column_V = torch.arange(logits_kV.size(1), device=logits_kV.device)
    return torch.where(column_V == row_k[:, None], share_kV - 1.0, share_kV).to(logits_kV.dtype)


def _exponentiate(rows: Tensor) -> tuple[Tensor, Tensor]:
    best = _finite(rows.amax(dim=-1))
    rows.sub_(best[:, None]).exp_()
    return best, rows.sum(-1)


def _finite(best_k: Tensor) -> Tensor:
    """A rank that holds nothing but padding has no finite logit; its sum must be 0, not NaN."""
    return best_k.clamp_min(torch.finfo(best_k.dtype).min)


def _label_logit(wide_kV: Tensor, row_k: Tensor) -> Tensor:
    return wide_kV.gather(1, row_k.clamp_min(0)[:, None])[:, 0].masked_fill(row_k < 0, float("-inf"))
