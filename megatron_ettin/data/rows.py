"""Rows of a corpus by global sample number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.indexed import IndexedTokens
from megatron_ettin.data.order import epoch_order
from megatron_ettin.data.packing import one_row_each, pack_best_fit
from megatron_ettin.data.pieces import SPECIAL_POSITIONS, Piece, cut_documents

Row = tuple[Piece, ...]


class RowDataset:
    """The rows of a range of documents, and their order over epochs.

    Which pieces share a row depends on the documents and the row length only, so both objectives see the same rows in
    the same order.

    Attributes:
        fill_rate: share of the rows' positions that hold a token, by an encoder's count ([SEP] behind every piece).
    """

    def __init__(
        self,
        corpus: IndexedTokens,
        documents: range,
        seq_length: int,
        *,
        sep_id: int | None,
        seed: int = 0,
        packing: str = "best-fit",
    ) -> None:
        """Cut and pack the documents.

        Args:
            corpus: the tokens.
            documents: which of its documents.
            seq_length: positions of a row.
            sep_id: see :func:`cut_documents`.
            seed: of the order.
            packing: ``best-fit`` fills rows with whole pieces, ``none`` gives each piece its own.
        """
        self._corpus = corpus
        self._seed = seed
        self._pieces = cut_documents(corpus, documents, seq_length, sep_id)
        sizes = self._pieces.lengths + SPECIAL_POSITIONS
        self._rows = one_row_each(len(sizes)) if packing == "none" else pack_best_fit(sizes, seq_length)
        self.fill_rate = float(sizes.sum(dtype=np.int64)) / max(1, len(self._rows) * seq_length)
        self._epoch = -1
        self._order: NDArray[np.int64] = np.zeros(0, np.int64)

    @property
    def num_rows(self) -> int:
        """Rows of one epoch."""
        return len(self._rows)

    def row(self, sample: int) -> Row:
        """Return the row of a global sample number, which counts on over epochs."""
        epoch, place = divmod(sample, self.num_rows)
        if epoch != self._epoch:
            self._order = epoch_order(self.num_rows, self._seed, epoch)
            self._epoch = epoch
        return self.stored_row(int(self._order[place]))

    def stored_row(self, number: int) -> Row:
        """Return a row by its number before any shuffling."""
        return tuple(self._pieces.piece(int(piece), self._corpus) for piece in self._rows.row(number))
