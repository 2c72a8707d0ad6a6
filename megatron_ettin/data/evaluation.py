"""A validation split, all of it, once, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from megatron_ettin.data.pieces import Corpus
from megatron_ettin.data.rows import Row, RowDataset
from megatron_ettin.data.splits import Documents


class EvaluationRows(Sequence[Row]):
    """Every piece of some documents of one source exactly once, packed into rows.

    Scores do not depend on which pieces share a row: attention stays inside a piece, and masks are keyed by document
    and piece.
    """

    def __init__(self, rows: RowDataset, name: str = "") -> None:
        """Show the rows of a source in their stored order.

        Args:
            rows: of the source.
            name: of the source, for figures of its own.
        """
        self._rows = rows
        self.name = name

    def __len__(self) -> int:
        return self._rows.num_rows

    def __iter__(self) -> Iterator[Row]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Row:  # type: ignore[override]
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._rows.stored_row(number)


def evaluation_rows(
    corpus: Corpus, documents: Documents, seq_length: int, *, sep_id: int | None, source: int = 0
) -> EvaluationRows:
    """Return all pieces of ``documents``, nothing dropped."""
    return EvaluationRows(RowDataset(corpus, documents, seq_length, sep_id=sep_id, source=source))
