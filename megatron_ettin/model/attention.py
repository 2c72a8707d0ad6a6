"""Attention over packed documents.

Shapes: S = T packed tokens, B = 1, H hidden, N heads of this rank, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn
from torch.nn import functional as F

from megatron_ettin.config.layer_pattern import LayerAttention
from megatron_ettin.model import flash
from megatron_ettin.model.packed_layout import Band, PackedLayout, split_and_rotate


class PackedSelfAttention(SelfAttention):
    """megatron-core's self-attention (its projections, sharding and names) with a layer's own RoPE base and window.

    megatron-core itself passes one rotary embedding to all layers.
    """

    def __init__(
        self,
        config: TransformerConfig,
        submodules: SelfAttentionSubmodules,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        layer_attention: LayerAttention,
        **kwargs: Any,
    ) -> None:
        """Build the projections and the core attention.

        Args:
            config: megatron-core's config.
            submodules: modules of linear_qkv, core_attention and linear_proj.
            layer_number: 1-based, over all stages.
            attn_mask_type: causal or not.
            layer_attention: window and RoPE base of this layer.
            kwargs: process groups, passed on.
        """
        super().__init__(config, submodules, layer_number, attn_mask_type, **kwargs)
        self.layer_attention = layer_attention

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        *args: Any,
        packed_seq_params: PackedLayout,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend within each chunk of the layout.

        Args:
            hidden_states: [T, 1, H] ([T / TP, 1, H] under sequence parallelism).
            attention_mask: unused; the layout determines the mask.
            args: arguments that megatron-core passes to any attention, unused.
            packed_seq_params: the layout of the micro-batch.
            kwargs: unused as well.

        Returns:
            The projected output, shaped like the input, and its bias (None).
        """
        mixed, _ = self.linear_qkv(hidden_states)
        per_head = self.hidden_size_per_attention_head
        qkv_TN3D = mixed.view(mixed.size(0), self.num_attention_heads_per_partition, 3, per_head)
        cos, sin = packed_seq_params.rotary(per_head, self.layer_attention.rope_base)
        query, key, value = split_and_rotate(qkv_TN3D, cos, sin)
        context = self.core_attention(
            query,
            key,
            value,
            attention_mask,
            attn_mask_type=self.attn_mask_type,
            attention_bias=None,
            packed_seq_params=packed_seq_params,
        )
        return self.linear_proj(context.reshape(context.size(0), 1, -1))


class PackedDotProductAttention(nn.Module):
    """Softmax attention of packed chunks with PyTorch's kernels, which skips most masked pairs.

    Half precision on a GPU uses the flash kernels (model/flash.py). Elsewhere a global layer runs chunk by chunk, and a
    local layer over all chunks at once in blocks of queries, each against the neighbouring blocks of keys only, so that
    its cost is linear in T instead of quadratic in a chunk's length.
    """

    def __init__(self, *, window: tuple[int, int] | None, attn_mask_type: AttnMaskType, **kwargs: Any) -> None:
        """Set the layer's window.

        Args:
            window: visible keys to the (left, right); None for the full chunk.
            attn_mask_type: causal or not; only for global layers, as a causal window already ends at its query.
            kwargs: arguments that megatron-core passes to any core attention; dropout is not supported.
        """
        super().__init__()
        assert kwargs["config"].attention_dropout == 0.0
        self.window = window
        self.causal = attn_mask_type == AttnMaskType.causal

    def forward(
        self,
        query_TND: Tensor,
        key_TND: Tensor,
        value_TND: Tensor,
        attention_mask: Tensor | None,
        *,
        packed_seq_params: PackedLayout,
        **kwargs: Any,
    ) -> Tensor:
        """Return the attention output [T, N, D]."""
        if flash.takes(query_TND):
            return flash.attend(query_TND, key_TND, value_TND, packed_seq_params, self.window, causal=self.causal)
        if self.window is None:
            return attend_by_chunk(query_TND, key_TND, value_TND, packed_seq_params.lengths, causal=self.causal)
        band = packed_seq_params.band(self.window, query_TND.dtype)
        return attend_in_band(query_TND, key_TND, value_TND, band)


def attend_by_chunk(
    query_TND: Tensor, key_TND: Tensor, value_TND: Tensor, lengths: tuple[int, ...], *, causal: bool
) -> Tensor:
    """Full (or causal) attention inside each chunk."""
    chunks = zip(*(x.transpose(0, 1).split(lengths, dim=1) for x in (query_TND, key_TND, value_TND)), strict=True)
    # A leading axis of size 1, as PyTorch's fused CPU kernel needs four axes.
    out = [F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=causal)[0] for q, k, v in chunks]
    return torch.cat(out, dim=1).transpose(0, 1)


def attend_in_band(query_TND: Tensor, key_TND: Tensor, value_TND: Tensor, band: Band) -> Tensor:
    """Windowed attention: every block of queries against its own and the neighbouring blocks of keys."""
    total = query_TND.size(0)
    num_blocks, block = band.bias_n1bk.size(0), band.block_size
    padding = num_blocks * block - total
    before, after = band.blocks_before, band.blocks_after

    def neighbourhood(x_TND: Tensor) -> Tensor:
        padded = F.pad(x_TND, (0, 0, 0, 0, before * block, padding + after * block))
        blocks = padded.view(before + num_blocks + after, block, *x_TND.shape[1:])
        shifted = [blocks[i : i + num_blocks] for i in range(before + 1 + after)]
        return torch.cat(shifted, dim=1).transpose(1, 2)

    query = F.pad(query_TND, (0, 0, 0, 0, 0, padding)).view(num_blocks, block, *query_TND.shape[1:]).transpose(1, 2)
    out = F.scaled_dot_product_attention(
        query, neighbourhood(key_TND), neighbourhood(value_TND), attn_mask=band.bias_n1bk
    )
    return out.transpose(1, 2).reshape(num_blocks * block, *query_TND.shape[1:])[:total]
