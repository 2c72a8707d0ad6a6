"""A validation split, all of it, once, in order."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_ettin.data.indexed import IndexedTokens
from megatron_ettin.data.rows import Row, RowDataset


class EvaluationRows(Sequence[Row]):
    """Every piece of a range of documents exactly once, packed into rows.

    Scores do not depend on which pieces share a row: attention stays inside a piece, and masks are keyed by document
    and piece.
    """

    def __init__(self, corpus: IndexedTokens, documents: range, seq_length: int, *, sep_id: int | None) -> None:
        """Cut and pack the documents; arguments as :class:`RowDataset`."""
        self._rows = RowDataset(corpus, documents, seq_length, sep_id=sep_id)

    def __len__(self) -> int:
        return self._rows.num_rows

    def __getitem__(self, number: int) -> Row:  # type: ignore[override]
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._rows.stored_row(number)


def evaluation_rows(corpus: IndexedTokens, documents: range, seq_length: int, *, sep_id: int | None) -> EvaluationRows:
    """Return all pieces of ``documents``, nothing dropped."""
    return EvaluationRows(corpus, documents, seq_length, sep_id=sep_id)
