"""The norm of all weights, however they lie on ranks."""

from __future__ import annotations

import torch
import torch.distributed
from megatron.core import parallel_state
from torch import Tensor, nn


@torch.no_grad()
def parameter_norm(stage: nn.Module) -> float:
    """Return the global L2 norm of the trained weights; collective, and the same on all ranks.

    A parameter that several ranks hold counts once: what tensor-parallel ranks share, and the tied matrix that the last
    stage has a copy of. Rows that only fill the vocabulary are 0.
    """
    squares = [_sum_of_squares(parameter) for parameter in stage.parameters() if _is_counted(parameter)]
    device = next(stage.parameters()).device
    total = torch.stack(squares).sum() if squares else torch.zeros((), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total, group=parallel_state.get_model_parallel_group())
    return float(total.sqrt())


def _sum_of_squares(parameter: Tensor) -> Tensor:
    return torch.linalg.vector_norm(parameter, dtype=torch.float32).double().square()


def _is_counted(parameter: nn.Parameter) -> bool:
    if not parameter.requires_grad:
        return False
    if getattr(parameter, "shared_embedding", False) and not parallel_state.is_pipeline_first_stage():
        return False
    is_split = bool(getattr(parameter, "tensor_model_parallel", False))
    return is_split or parallel_state.get_tensor_model_parallel_rank() == 0
