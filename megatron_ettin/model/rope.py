"""Rotary position embedding in NeoX's half-split form (Su et al., arXiv 2104.09864).

Shapes: T packed tokens, N heads, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_ettin.model.fused import fused


def rotary_tables(positions_T: Tensor, head_size: int, base: float) -> tuple[Tensor, Tensor]:
    """Return cosine and sine, each [T, 1, D/2] in fp32, of ``position * base ** (-2i / D)``."""
    steps = torch.arange(0, head_size, 2, dtype=torch.int64, device=positions_T.device)
    inverse_frequency = 1.0 / (base ** (steps.float() / head_size))
    angle = positions_T.float()[:, None] * inverse_frequency
    return angle.cos()[:, None], angle.sin()[:, None]


def rotate(x_TND: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x[i], x[i + D/2]) by their angles; computed in fp32, returned in the type of ``x_TND``."""
    first, second = x_TND.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x_TND.dtype)


@fused
def split_and_rotate(qkv_TN3D: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return query and key, turned, and value, each [T, N, D], from one projection of all three.

    On a GPU this is one pass over the projection, and one over its gradient.
    """
    query, key, value = qkv_TN3D.unbind(2)
    if qkv_TN3D.is_cuda:
        # A view would have its gradient added to that of the other two in another pass over all three.
        value = value.clone(memory_format=torch.contiguous_format)
    return rotate(query, cos, sin), rotate(key, cos, sin), value
