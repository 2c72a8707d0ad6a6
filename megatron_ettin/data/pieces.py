"""Documents cut into pieces that fit a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.indexed import IndexedTokens

SPECIAL_POSITIONS = 2
"""Positions of a row that each piece may need besides its content: [CLS] before and [SEP] behind."""


@dataclass(frozen=True)
class Piece:
    """A stretch of one document: what stands between [CLS] and [SEP]."""

    document: int
    index: int
    """Number of the piece in its document, from 0."""
    tokens: NDArray[np.integer]
    ends_document: bool


@dataclass(frozen=True)
class PieceTable:
    """All pieces of a range of documents, in document order; arrays of one entry a piece."""

    documents: NDArray[np.int64]
    indices: NDArray[np.int64]
    starts: NDArray[np.int64]
    """First token in the corpus's flat file."""
    lengths: NDArray[np.int64]
    ends_document: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.documents)

    def piece(self, number: int, corpus: IndexedTokens) -> Piece:
        """Return one piece with its tokens."""
        start = int(self.starts[number])
        tokens = corpus.tokens[start : start + int(self.lengths[number])]
        return Piece(int(self.documents[number]), int(self.indices[number]), tokens, bool(self.ends_document[number]))


def cut_documents(corpus: IndexedTokens, documents: range, seq_length: int, sep_id: int | None) -> PieceTable:
    """Cut every document into pieces of at most ``seq_length`` positions, [CLS] and [SEP] counted.

    Nothing is dropped: the last piece of a document is as short as it comes out. Empty documents have no piece.

    Args:
        corpus: the tokens.
        documents: which of its documents.
        seq_length: positions of a row.
        sep_id: a [SEP] that preprocessing appended to a document is not content; it is left away here and set again
            when rows are made.
    """
    content = seq_length - SPECIAL_POSITIONS
    starts = corpus.document_starts[documents.start : documents.stop]
    lengths = corpus.document_lengths[documents.start : documents.stop].copy()
    if sep_id is not None:
        filled = np.flatnonzero(lengths > 0)
        closed = filled[corpus.tokens[starts[filled] + lengths[filled] - 1] == sep_id]
        lengths[closed] -= 1
    counts = -(-lengths // content)
    owner = np.repeat(np.arange(len(lengths)), counts)
    indices = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    offsets = indices * content
    return PieceTable(
        documents=owner + documents.start,
        indices=indices,
        starts=starts[owner] + offsets,
        lengths=np.minimum(content, lengths[owner] - offsets),
        ends_document=indices == counts[owner] - 1,
    )
