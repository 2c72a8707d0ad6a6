"""The gate of the MLP.

Shapes: I width of each half of the gated MLP on this rank.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from megatron_ettin.model.fused import fused


@fused
def gated_gelu(halves: Tensor) -> Tensor:
    """Return [..., I]: exact GELU of the first half of the last axis of [..., 2I] times the second half.

    megatron-core's own gate either runs operation by operation or, fused, by the tanh approximation of GELU, as
    Transformer Engine's does; the architecture has the exact one.
    """
    first, second = torch.chunk(halves, 2, dim=-1)
    return F.gelu(first) * second
