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
    """megatron-core's self-attention (its projections, sharding and names) for one layer of the pattern.

    Each layer turns by its own RoPE base and looks through its own window; core hands one rotary embedding to all.
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
            submodules: what linear_qkv, core_attention and linear_proj are made of.
            layer_number: 1-based, over all stages.
            attn_mask_type: causal or not.
            layer_attention: window and RoPE base of this layer.
            kwargs: process groups, handed on.
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
            attention_mask: unused; the layout says who sees whom.
            args: what core hands to any attention, unused.
            packed_seq_params: the layout of the micro-batch.
            kwargs: likewise unused.

        Returns:
            The projected output, shaped as the input, and the bias to add to it (none).
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
    """Softmax attention of packed chunks with PyTorch's kernels, computing little of what the mask throws away.

    Half precision on a GPU goes to the flash kernels (model/flash.py). Elsewhere a global layer runs chunk by chunk,
    and a local layer once over all chunks in blocks of queries, each against the neighbouring blocks of keys only, so
    that its cost grows with T and not with the square of a chunk's length.
    """

    def __init__(self, *, window: tuple[int, int] | None, attn_mask_type: AttnMaskType, **kwargs: Any) -> None:
        """Keep the layer's window.

        Args:
            window: keys seen to the (left, right), None for all of the chunk.
            attn_mask_type: causal or not; matters to global layers (a local window already ends at its query).
            kwargs: what megatron-core hands to any core attention; dropout is not supported here.
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
    # A leading axis of one: PyTorch's fused CPU kernel takes four axes only.
    out = [F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=causal)[0] for q, k, v in chunks]
    return torch.cat(out, dim=1).transpose(0, 1)


def attend_in_band(query_TND: Tensor, key_TND: Tensor, value_TND: Tensor, band: Band) -> Tensor:
    """Windowed attention: every block of queries against its own and the neighbouring blocks of keys."""
    total = query_TND.size(0)
    num_blocks, block = band.bias_n1bk.size(0), band.block_size
    fill = num_blocks * block - total
    before, after = band.blocks_before, band.blocks_after

    def neighbourhood(x_TND: Tensor) -> Tensor:
        padded = F.pad(x_TND, (0, 0, 0, 0, before * block, fill + after * block))
        blocks = padded.view(before + num_blocks + after, block, *x_TND.shape[1:])
        shifted = [blocks[i : i + num_blocks] for i in range(before + 1 + after)]
        return torch.cat(shifted, dim=1).transpose(1, 2)

    query = F.pad(query_TND, (0, 0, 0, 0, 0, fill)).view(num_blocks, block, *query_TND.shape[1:]).transpose(1, 2)
    out = F.scaled_dot_product_attention(
        query, neighbourhood(key_TND), neighbourhood(value_TND), attn_mask=band.bias_n1bk
    )
    return out.transpose(1, 2).reshape(num_blocks * block, *query_TND.shape[1:])[:total]
