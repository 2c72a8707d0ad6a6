"""The layout of a packed micro-batch: chunk boundaries, the bands of local layers, and rotary embeddings.

Shapes: T packed tokens, N heads, D head size, n blocks of b queries that each see k keys.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from megatron_ettin.model.compiled import fused

Shared = TypeVar("Shared")


@dataclass
class Band:
    """The blocks of a local layer: T queries in blocks, each of which sees a few neighbouring blocks of keys."""

    block_size: int
    blocks_before: int
    blocks_after: int
    bias_n1bk: Tensor
    """0 where a query sees a key, otherwise -inf (another chunk, outside the window, or the future)."""


@dataclass
class PackedLayout(PackedSeqParams):
    """Boundaries of the chunks of a micro-batch, and values that its layers share, computed once per micro-batch.

    Passed as megatron-core's ``packed_seq_params``, the packed format of pipeline schedules and Transformer Engine.
    """

    positions_T: Tensor | None = None
    lengths: tuple[int, ...] = ()
    _shared: dict[Hashable, Any] = field(default_factory=dict)

    @classmethod
    def build(cls, cu_seqlens: Tensor, positions_T: Tensor, lengths: tuple[int, ...]) -> PackedLayout:
        """Describe consecutive chunks.

        Args:
            cu_seqlens: start of each chunk and end of the last, int32 [chunks + 1], on the device.
            positions_T: position of each token in its chunk, on the device.
            lengths: tokens of each chunk, on the host.
        """
        longest = max(lengths, default=0)
        return cls(
            qkv_format="thd",
            cu_seqlens_q=cu_seqlens,
            cu_seqlens_kv=cu_seqlens,
            max_seqlen_q=longest,
            max_seqlen_kv=longest,
            positions_T=positions_T,
            lengths=lengths,
        )

    def rotary(self, head_size: int, base: float) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of all tokens for one RoPE base (see :func:`rotary_tables`)."""
        assert self.positions_T is not None
        positions_T = self.positions_T
        return self.shared(("rotary", head_size, base), lambda: rotary_tables(positions_T, head_size, base))

    def band(self, window: tuple[int, int], dtype: torch.dtype) -> Band:
        """Return the blocks of a local layer with ``window`` keys to the (left, right) of each query."""
        return self.shared(("band", *window), lambda: self._build_band(window, dtype))

    def chunk_of_token(self) -> Tensor:
        """Return the number of each token's chunk, [T]."""
        return self.shared("chunk", self._number_chunks)

    def shared(self, key: Hashable, build: Callable[[], Shared]) -> Shared:
        """Return a value that layers share under a key; the first call builds it."""
        if key not in self._shared:
            self._shared[key] = build()
        value: Shared = self._shared[key]
        return value

    def _number_chunks(self) -> Tensor:
        assert self.cu_seqlens_q is not None
        positions_T = torch.arange(sum(self.lengths), device=self.cu_seqlens_q.device)
        return torch.bucketize(positions_T, self.cu_seqlens_q[1:].long(), right=True)

    def _build_band(self, window: tuple[int, int], dtype: torch.dtype) -> Band:
        left, right = window
        assert self.cu_seqlens_q is not None
        device = self.cu_seqlens_q.device
        total = sum(self.lengths)
        # With blocks as wide as the window one neighbour on each side suffices; at least 16 limits their number.
        block = max(left, right, 16)
        before, after = int(left > 0), int(right > 0)
        num_blocks = -(-total // block)
        query_index = torch.arange(num_blocks * block, device=device).view(num_blocks, block)
        boundaries = self.cu_seqlens_q.long()
        offset = torch.arange(-before * block, (1 + after) * block, device=device)
        key_index = query_index[:, :1] + offset
        chunk = torch.bucketize(query_index, boundaries, right=True)
        # Padding past the end is a chunk too, so that no row of the mask is empty.
        key_chunk = torch.bucketize(key_index, boundaries, right=True)
        distance = key_index[:, None, :] - query_index[:, :, None]
        visible = (chunk[:, :, None] == key_chunk[:, None, :]) & (distance >= -left) & (distance <= right)
        bias = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, float("-inf"))
        return Band(block, before, after, bias[:, None])


def rotary_tables(positions_T: Tensor, head_size: int, base: float) -> tuple[Tensor, Tensor]:
    """Return cosine and sine, each [T, 1, D/2] in fp32, of ``position * base ** (-2i / D)``."""
    steps = torch.arange(0, head_size, 2, dtype=torch.int64, device=positions_T.device)
    inverse_frequency = 1.0 / (base ** (steps.float() / head_size))
    angle = positions_T.float()[:, None] * inverse_frequency
    return angle.cos()[:, None], angle.sin()[:, None]


def rotate(x_TND: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x[i], x[i + D/2]) by their angles; computed in fp32, returned in the type of ``x_TND``."""
    first, second = x_TND.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x_TND.dtype)


@fused
def split_and_rotate(qkv_TN3D: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return rotated query, rotated key, and value, each [T, N, D], from their joint projection.

    On a GPU this is one pass over the projection, and one over its gradient.
    """
    query, key, value = qkv_TN3D.unbind(2)
    if qkv_TN3D.is_cuda:
        # The gradient of a view would be added to that of query and key in another pass over all three.
        value = value.clone(memory_format=torch.contiguous_format)
    return rotate(query, cos, sin), rotate(key, cos, sin), value
