"""Packed micro-batches: chunks laid end to end, without padding between them.

Shapes: T packed tokens, D chunks, K scored positions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.chunks import Chunk


@dataclass(frozen=True)
class PackedTokens:
    """Chunks with [CLS] before each and [SEP] after those that are closed."""

    tokens_T: NDArray[np.int64]
    positions_T: NDArray[np.int64]
    """Position of each token in its chunk, from 0."""
    content_T: NDArray[np.bool_]
    """True for tokens of the corpus, False for the [CLS] and [SEP] that were added."""
    cu_seqlens: NDArray[np.int32]
    """Start of each chunk, and the end; [D + 1]."""


@dataclass(frozen=True)
class PackedBatch:
    """One micro-batch of one data-parallel rank, as numpy arrays.

    Padding up to a multiple of tokens, which sequence parallelism needs, is a last chunk that is never scored.
    """

    tokens_T: NDArray[np.int64]
    """Input ids, masking already applied."""
    positions_T: NDArray[np.int64]
    """Position of each token in its chunk, from 0, for RoPE."""
    cu_seqlens: NDArray[np.int32]
    """Start of each chunk, and the end; [D + 1]."""
    scored_K: NDArray[np.int64]
    """Positions in T whose output is scored, ascending."""
    labels_K: NDArray[np.int64]
    """The correct token at each scored position."""
    real_tokens: int
    """Number of tokens that are not padding."""
    num_rows: int = 0
    """Number of rows that the chunks come from."""

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each chunk, padding included."""
        return tuple((self.cu_seqlens[1:] - self.cu_seqlens[:-1]).tolist())


def assemble(chunks: Sequence[Chunk], *, cls_id: int, sep_id: int, close_every_chunk: bool) -> PackedTokens:
    """Lay chunks end to end.

    Args:
        chunks: in order.
        cls_id: put before each chunk.
        sep_id: put after each closed chunk.
        close_every_chunk: whether every chunk is closed (encoder), or only the last one of each document (decoder).
    """
    contents = np.array([len(chunk.tokens) for chunk in chunks], dtype=np.int64)
    closed = np.array([close_every_chunk or chunk.ends_document for chunk in chunks], dtype=bool)
    lengths = contents + 1 + closed
    cu_seqlens = np.concatenate(([0], np.cumsum(lengths)))
    starts, ends = cu_seqlens[:-1], cu_seqlens[1:]
    content_T = np.ones(cu_seqlens[-1], dtype=bool)
    content_T[starts] = False
    content_T[ends[closed] - 1] = False
    tokens_T = np.full(cu_seqlens[-1], cls_id, dtype=np.int64)
    tokens_T[ends[closed] - 1] = sep_id
    if len(chunks):
        tokens_T[content_T] = np.concatenate([chunk.tokens for chunk in chunks])
    return PackedTokens(
        tokens_T=tokens_T,
        positions_T=np.arange(len(tokens_T)) - np.repeat(starts, lengths),
        content_T=content_T,
        cu_seqlens=cu_seqlens.astype(np.int32),
    )


def next_token_targets(
    packed: PackedTokens, never_targets: Collection[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return scored positions and labels of next-token prediction.

    Every token of a chunk but the last predicts its successor, so nothing is predicted across chunks.

    Args:
        packed: chunks end to end.
        never_targets: tokens that are never predicted, even where a document contains them: [CLS], [PAD], [MASK].
    """
    scores_T = np.ones(len(packed.tokens_T), dtype=bool)
    scores_T[packed.cu_seqlens[1:] - 1] = False
    for token in never_targets:
        scores_T[:-1] &= packed.tokens_T[1:] != token
    scored_K = np.flatnonzero(scores_T)
    return scored_K, packed.tokens_T[scored_K + 1]


def make_batch(
    packed: PackedTokens,
    *,
    inputs_T: NDArray[np.int64],
    scored_K: NDArray[np.int64],
    labels_K: NDArray[np.int64],
    pad_id: int,
    pad_multiple: int = 1,
) -> PackedBatch:
    """Build a batch, padded to a multiple of ``pad_multiple`` tokens."""
    real = len(packed.tokens_T)
    # A rank without chunks gets one token of padding: it still takes part in the collectives of the others.
    padding = -real % pad_multiple or (pad_multiple if real == 0 else 0)
    cu_seqlens = packed.cu_seqlens
    if padding:
        cu_seqlens = np.append(cu_seqlens, np.int32(real + padding))
    return PackedBatch(
        tokens_T=np.concatenate((inputs_T, np.full(padding, pad_id, dtype=np.int64))),
        positions_T=np.concatenate((packed.positions_T, np.arange(padding))),
        cu_seqlens=cu_seqlens,
        scored_K=scored_K,
        labels_K=labels_K,
        real_tokens=real,
    )
