"""Packed attention with flash kernels, for half-precision tensors on a GPU.

PyTorch's variable-length attention supports packed chunks with a window; where the installed PyTorch has none with
windows, FlexAttention with a block mask computes the same.

Shapes: T packed tokens, N heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from megatron_ettin.model.packed_layout import PackedLayout
from megatron_ettin.runtime.backend import has_windowed_varlen

_HALF_PRECISION = (torch.bfloat16, torch.float16)


def takes(query: Tensor) -> bool:
    """Whether flash kernels support a tensor's device and type."""
    return query.is_cuda and query.dtype in _HALF_PRECISION


def attend(
    query_TND: Tensor,
    key_TND: Tensor,
    value_TND: Tensor,
    layout: PackedLayout,
    window: tuple[int, int] | None,
    *,
    causal: bool,
) -> Tensor:
    """Return the attention output [T, N, D] within each chunk of the layout.

    Args:
        query_TND: queries of this rank's heads.
        key_TND: keys.
        value_TND: values.
        layout: boundaries of the chunks.
        window: visible keys to the (left, right) of a query; None for all.
        causal: whether keys on the right are masked in any case.
    """
    left, right = window or (-1, -1)
    reach = (left, 0 if causal else right)
    attention = _attend_variable_length if has_windowed_varlen() else _attend_flex
    return attention(query_TND, key_TND, value_TND, layout, reach)


def _attend_variable_length(
    query_TND: Tensor, key_TND: Tensor, value_TND: Tensor, layout: PackedLayout, reach: tuple[int, int]
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    starts, longest = layout.cu_seqlens_q, layout.max_seqlen_q
    out = varlen_attn(query_TND, key_TND, value_TND, starts, starts, longest, longest, window_size=reach)
    assert isinstance(out, Tensor)
    return out


def _attend_flex(
    query_TND: Tensor, key_TND: Tensor, value_TND: Tensor, layout: PackedLayout, reach: tuple[int, int]
) -> Tensor:
    mask = layout.shared(("flex", *reach), lambda: _block_mask(layout, reach))
    query, key, value = (x.transpose(0, 1)[None] for x in (query_TND, key_TND, value_TND))
    out: Tensor = _compiled_flex()(query, key, value, block_mask=mask)
    return out[0].transpose(0, 1)


@cache
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def _block_mask(layout: PackedLayout, reach: tuple[int, int]) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    left, right = reach
    chunk_T = layout.chunk_of_token()
    total = len(chunk_T)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        visible = chunk_T[query] == chunk_T[key]
        if left >= 0:
            visible = visible & (query - key <= left)
        if right >= 0:
            visible = visible & (key - query <= right)
        return visible

    return create_block_mask(sees, None, None, total, total, device=str(chunk_T.device), _compile=True)
