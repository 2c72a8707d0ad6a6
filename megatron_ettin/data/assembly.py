"""Pieces laid end to end with their special tokens: the part of a batch that both objectives share.

Shapes: T packed tokens, D pieces.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.data.pieces import Piece


@dataclass(frozen=True)
class PackedTokens:
    """Pieces with [CLS] before and, where they close, [SEP] behind."""

    tokens_T: NDArray[np.int64]
    positions_T: NDArray[np.int64]
    content_T: NDArray[np.bool_]
    """True where a token of the corpus stands, False at [CLS] and [SEP]."""
    cu_seqlens: NDArray[np.int32]
    """[D + 1], where each piece begins."""


def assemble(pieces: Sequence[Piece], *, cls_id: int, sep_id: int, close_every_piece: bool) -> PackedTokens:
    """Lay pieces end to end.

    Args:
        pieces: in order.
        cls_id: stands before each piece.
        sep_id: stands behind a piece that closes.
        close_every_piece: every piece closes (encoder); otherwise only one that ends its document (decoder).
    """
    contents = np.array([len(piece.tokens) for piece in pieces], dtype=np.int64)
    closed = np.array([close_every_piece or piece.ends_document for piece in pieces], dtype=bool)
    lengths = contents + 1 + closed
    cu_seqlens = np.concatenate(([0], np.cumsum(lengths)))
    starts, ends = cu_seqlens[:-1], cu_seqlens[1:]
    content_T = np.ones(cu_seqlens[-1], dtype=bool)
    content_T[starts] = False
    content_T[ends[closed] - 1] = False
    tokens_T = np.full(cu_seqlens[-1], cls_id, dtype=np.int64)
    tokens_T[ends[closed] - 1] = sep_id
    if len(pieces):
        tokens_T[content_T] = np.concatenate([piece.tokens for piece in pieces])
    return PackedTokens(
        tokens_T=tokens_T,
        positions_T=np.arange(len(tokens_T)) - np.repeat(starts, lengths),
        content_T=content_T,
        cu_seqlens=cu_seqlens.astype(np.int32),
    )


def make_batch(
    packed: PackedTokens,
    *,
    inputs_T: NDArray[np.int64],
    scored_K: NDArray[np.int64],
    labels_K: NDArray[np.int64],
    pad_id: int,
    pad_multiple: int = 1,
) -> PackedBatch:
    """Complete a batch: add what fills it up to ``pad_multiple`` tokens as a last piece that is never scored."""
    real = len(packed.tokens_T)
    # A rank without any piece still takes part in the collectives of the others, with one token of filling.
    fill = -real % pad_multiple or (pad_multiple if real == 0 else 0)
    cu_seqlens = packed.cu_seqlens
    if fill:
        cu_seqlens = np.append(cu_seqlens, np.int32(real + fill))
    return PackedBatch(
        tokens_T=np.concatenate((inputs_T, np.full(fill, pad_id, dtype=np.int64))),
        positions_T=np.concatenate((packed.positions_T, np.arange(fill))),
        cu_seqlens=cu_seqlens,
        scored_K=scored_K,
        labels_K=labels_K,
        real_tokens=real,
    )


def next_token_targets(
    packed: PackedTokens, never_targets: Collection[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return scored positions and labels of next-token prediction.

    Every token of a piece but its last predicts the one behind it, so nothing is predicted across pieces.

    Args:
        packed: pieces end to end.
        never_targets: tokens that are not predicted even where the text itself spells them: [CLS], [PAD], [MASK].
    """
    scores_T = np.ones(len(packed.tokens_T), dtype=bool)
    scores_T[packed.cu_seqlens[1:] - 1] = False
    for token in never_targets:
        scores_T[:-1] &= packed.tokens_T[1:] != token
    scored_K = np.flatnonzero(scores_T)
    return scored_K, packed.tokens_T[scored_K + 1]
