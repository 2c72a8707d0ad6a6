"""Cross-entropy over a vocabulary that is split over tensor-parallel ranks.

Shapes: K scored positions, V vocabulary rows of this rank.
"""

from __future__ import annotations

import torch
import torch.distributed
from megatron.core import parallel_state
from megatron.core.tensor_parallel.cross_entropy import vocab_parallel_cross_entropy
from torch import Tensor


def cross_entropy_sum(logits_KV: Tensor, labels_K: Tensor) -> Tensor:
    """Return the summed negative log-likelihood of the labels, in nats, as an fp32 scalar (0 when K is 0)."""
    return vocab_parallel_cross_entropy(logits_KV.float(), labels_K).sum()


@torch.no_grad()
def count_correct(logits_KV: Tensor, labels_K: Tensor) -> Tensor:
    """Return how many labels are the most likely token, as an int64 scalar."""
    group = parallel_state.get_tensor_model_parallel_group()
    best, index = logits_KV.max(dim=-1)
    if group.size() > 1:
        index = index + group.rank() * logits_KV.size(-1)
        bests = [torch.empty_like(best) for _ in range(group.size())]
        indices = [torch.empty_like(index) for _ in range(group.size())]
        torch.distributed.all_gather(bests, best, group=group)
        torch.distributed.all_gather(indices, index, group=group)
        winner = torch.stack(bests).argmax(dim=0)
        index = torch.stack(indices).gather(0, winner[None])[0]
    return (index == labels_K).sum()
