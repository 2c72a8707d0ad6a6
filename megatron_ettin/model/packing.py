"""The layout of a packed micro-batch, as attention needs it.

Shapes: T packed tokens, D pieces, n blocks of b queries each seeing k keys.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from megatron_ettin.model.rope import rotary_tables

Shared = TypeVar("Shared")


@dataclass
class Band:
    """How a local layer cuts T queries into blocks that each see a few neighbouring blocks of keys."""

    block_size: int
    blocks_before: int
    blocks_after: int
    bias_n1bk: Tensor
    """0 where a query sees a key, -inf where not (other piece, outside the window, or the future)."""


@dataclass
class PackedLayout(PackedSeqParams):
    """Where the pieces of a micro-batch lie, with what its layers share, computed once per micro-batch.

    It travels as megatron-core's ``packed_seq_params``, so that pipeline schedules and Transformer Engine see the
    packed format they know.
    """

    positions_T: Tensor | None = None
    lengths: tuple[int, ...] = ()
    _shared: dict[Hashable, Any] = field(default_factory=dict)

    @classmethod
    def build(cls, cu_seqlens: Tensor, positions_T: Tensor, lengths: tuple[int, ...]) -> PackedLayout:
        """Describe pieces of ``lengths`` tokens that follow each other.

        Args:
            cu_seqlens: [D + 1] int32, where each piece begins; on the device.
            positions_T: position of each token in its own piece; on the device.
            lengths: the same pieces' lengths, on the host.
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
        """Return the cosines and sines of all tokens for one RoPE base (see :func:`rotary_tables`)."""
        assert self.positions_T is not None
        positions_T = self.positions_T
        return self.shared(("rotary", head_size, base), lambda: rotary_tables(positions_T, head_size, base))

    def band(self, window: tuple[int, int], dtype: torch.dtype) -> Band:
        """Return the blocks of a local layer with ``window`` keys (left, right) of each query."""
        return self.shared(("band", *window), lambda: self._build_band(window, dtype))

    def piece_of_token(self) -> Tensor:
        """Return the number of each token's piece, [T]."""
        return self.shared("piece", self._number_pieces)

    def shared(self, key: Hashable, build: Callable[[], Shared]) -> Shared:
        """Return what layers share under a key, built by the first that asks."""
        if key not in self._shared:
            self._shared[key] = build()
        found: Shared = self._shared[key]
        return found

    def _number_pieces(self) -> Tensor:
        assert self.cu_seqlens_q is not None
        positions_T = torch.arange(sum(self.lengths), device=self.cu_seqlens_q.device)
        return torch.bucketize(positions_T, self.cu_seqlens_q[1:].long(), right=True)

    def _build_band(self, window: tuple[int, int], dtype: torch.dtype) -> Band:
        left, right = window
        assert self.cu_seqlens_q is not None
        device = self.cu_seqlens_q.device
        total = sum(self.lengths)
        # A block as wide as the window needs just one neighbour to each side; below 16 the blocks get too many.
        block = max(left, right, 16)
        before, after = int(left > 0), int(right > 0)
        num_blocks = -(-total // block)
        query_index = torch.arange(num_blocks * block, device=device).view(num_blocks, block)
        boundaries = self.cu_seqlens_q.long()
        offset = torch.arange(-before * block, (1 + after) * block, device=device)
        key_index = query_index[:, :1] + offset
        piece = torch.bucketize(query_index, boundaries, right=True)
        # Tokens past the end are a piece of their own, so that no row of the mask is empty.
        key_piece = torch.bucketize(key_index, boundaries, right=True)
        distance = key_index[:, None, :] - query_index[:, :, None]
        seen = (piece[:, :, None] == key_piece[:, None, :]) & (distance >= -left) & (distance <= right)
        bias = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, float("-inf"))
        return Band(block, before, after, bias[:, None])
