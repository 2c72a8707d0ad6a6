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
    """All pieces of a range of documents, in document order: 12 bytes a piece and 8 a document."""

    documents: range
    first_pieces: NDArray[np.int64]
    """Number of each document's first piece, and behind the last entry the end."""
    starts: NDArray[np.int64]
    """Where each piece begins in the corpus's flat file."""
    lengths: NDArray[np.int32]
    """Tokens of each piece."""

    def __len__(self) -> int:
        return len(self.starts)

    def piece(self, number: int, corpus: IndexedTokens) -> Piece:
        """Return one piece with its tokens."""
        # The last document that begins at or before the piece; those without pieces begin where the next one does.
        place = int(self.first_pieces.searchsorted(number, side="right")) - 1
        start = int(self.starts[number])
        return Piece(
            document=self.documents[place],
            index=number - int(self.first_pieces[place]),
            tokens=corpus.tokens[start : start + int(self.lengths[number])],
            ends_document=number + 1 == int(self.first_pieces[place + 1]),
        )


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
    bounds = corpus.document_starts[documents.start : documents.stop + 1]
    lengths = np.diff(bounds)
    if sep_id is not None:
        filled = np.flatnonzero(lengths)
        closed = filled[corpus.tokens[bounds[filled + 1] - 1] == sep_id]
        lengths[closed] -= 1
    counts = -(-lengths // content)
    first_pieces = np.concatenate(([0], np.cumsum(counts)))
    indices = np.arange(first_pieces[-1]) - np.repeat(first_pieces[:-1], counts)
    offsets = indices * content
    return PieceTable(
        documents=documents,
        first_pieces=first_pieces,
        starts=np.repeat(bounds[:-1], counts) + offsets,
        lengths=np.minimum(content, np.repeat(lengths, counts) - offsets).astype(np.int32),
    )
