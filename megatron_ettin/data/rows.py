"""Rows of one corpus by number: chunks packed into rows, and the order of rows in each epoch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.chunk_lengths import SPECIAL_POSITIONS, ChunkRule, Dropped
from megatron_ettin.data.chunks import SEARCH_STEP, Chunk, ChunkTable, cut_documents
from megatron_ettin.data.corpus.indexed import IndexedTokens
from megatron_ettin.data.corpus.special_tokens import EndTokens
from megatron_ettin.data.index_cache import Arrays, IndexCache
from megatron_ettin.data.packing import RowTable, one_row_each, pack_best_fit
from megatron_ettin.data.rng import Purpose, random_stream
from megatron_ettin.data.splits import Documents

Row = tuple[Chunk, ...]

_KEPT_EPOCHS = 2
"""Orders kept in memory: a step may extend into the next epoch."""
_AT_ONCE = 2**20
"""Rows whose tokens are counted at a time."""
LARGE_ORDER = 2**20
"""Rows from which an order is cached on disk. A shorter one is drawn in milliseconds, and a small source needs many."""


class RowDataset:
    """The rows of some documents of a corpus, and their order over epochs.

    Which chunks share a row depends on the documents and the row length only, so all objectives train on the same rows
    in the same order.

    Attributes:
        source: number of the corpus in its blend.
        fill_rate: fraction of the rows' positions that contain a token, with a [SEP] after every chunk.
        dropped: what chunking dropped.
        num_positions: tokens of an epoch, with a [SEP] after every chunk.
    """

    def __init__(
        self,
        corpus: IndexedTokens,
        documents: Documents,
        seq_length: int,
        *,
        sep_id: EndTokens | None,
        seed: int = 0,
        packing: str = "best-fit",
        rule: ChunkRule | None = None,
        source: int = 0,
        all_closed: Callable[[], bool | None] | None = None,
        cache: IndexCache | None = None,
    ) -> None:
        """Cut and pack the documents.

        Args:
            corpus: the tokens.
            documents: which of its documents, ascending.
            seq_length: positions of a row.
            sep_id: see :func:`cut_documents`.
            seed: of the order.
            packing: ``best-fit`` packs whole chunks into rows, ``none`` gives each chunk its own row.
            rule: how long documents are cut.
            source: number of the corpus in its blend.
            all_closed: returns the ``all_closed`` of :func:`cut_documents`; called only if the tables are built.
            cache: keeps the tables on disk; its facts cover all other arguments.
        """
        self._corpus = corpus
        self._seed = seed
        self.source = source
        self._cache = cache
        self._orders: OrderedDict[int, NDArray[np.integer]] = OrderedDict()

        def build() -> Arrays:
            closed = all_closed() if all_closed is not None else None
            chunks = cut_documents(corpus, documents, seq_length, sep_id, rule, all_closed=closed)
            return _tables(chunks, seq_length, packing)

        tables = cache.get(build) if cache is not None else build()
        *dropped, self.num_positions = tables["totals"].tolist()
        self.dropped = Dropped(*dropped)
        coarse = tables["coarse"] if cache is not None else None
        self._chunks = ChunkTable(
            documents,
            tables["first_pieces"],
            tables["lengths"],
            self.dropped,
            source,
            tables["shortened"],
            coarse,
        )
        self._rows = RowTable(tables["row_pieces"], tables["row_starts"])
        self.fill_rate = self.num_positions / max(1, len(self._rows) * seq_length)

    @property
    def num_rows(self) -> int:
        """Rows of one epoch."""
        return len(self._rows)

    def documents(self) -> tuple[Documents, NDArray[np.int64]]:
        """Return the numbers of the documents, and how many of their tokens are in chunks."""
        return self._chunks.documents, self._chunks.document_sizes()

    def row(self, number: int) -> Row:
        """Return a row by its training number, which continues over epochs."""
        return self.rows([number])[0]

    def rows(self, numbers: Sequence[int] | NDArray[np.integer]) -> list[Row]:
        """Return rows by their training numbers."""
        return self.stored_rows(self.stored_numbers(np.asarray(numbers, dtype=np.int64)))

    def stored_numbers(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the stored numbers, those before shuffling, of rows given by their training numbers."""
        epochs, places = np.divmod(numbers, max(1, self.num_rows))
        stored = np.empty(len(numbers), np.int64)
        for epoch in np.unique(epochs).tolist():
            mine = epochs == epoch
            stored[mine] = self._order(epoch)[places[mine]]
        return stored

    def stored_row(self, number: int) -> Row:
        """Return a row by its stored number."""
        return self.stored_rows(np.array([number]))[0]

    def stored_rows(self, numbers: NDArray[np.integer]) -> list[Row]:
        """Return rows by their stored numbers."""
        chunk_numbers, counts = self._chunk_numbers(numbers)
        chunks = self._chunks.chunks(chunk_numbers, self._corpus)
        ends = np.cumsum(counts).tolist()
        return [tuple(chunks[start:stop]) for start, stop in zip([0, *ends], ends, strict=False)]

    def row_tokens(self, numbers: NDArray[np.integer], *, close_every_chunk: bool) -> NDArray[np.int64]:
        """Return the number of tokens of rows, including [CLS] and [SEP], without reading them.

        Args:
            numbers: stored numbers of the rows.
            close_every_chunk: see :func:`assemble`.
        """
        chunks, counts = self._chunk_numbers(numbers)
        closed = 1 if close_every_chunk else self._chunks.ends_document(chunks)
        sizes = self._chunks.lengths[chunks].astype(np.int64) + 1 + closed
        sums = np.concatenate(([0], np.cumsum(sizes)))
        ends = np.cumsum(counts)
        return sums[ends] - sums[ends - counts]

    def tokens_before(self, number: int, *, close_every_chunk: bool) -> int:
        """Return the number of tokens of all rows before training number ``number``, without reading them."""
        epochs, place = divmod(number, max(1, self.num_rows))
        tokens = self._sum_tokens(self._order(epochs)[:place], close_every_chunk=close_every_chunk)
        if epochs:
            tokens += epochs * self._sum_tokens(np.arange(self.num_rows), close_every_chunk=close_every_chunk)
        return tokens

    def _sum_tokens(self, numbers: NDArray[np.integer], *, close_every_chunk: bool) -> int:
        parts = (numbers[start : start + _AT_ONCE] for start in range(0, len(numbers), _AT_ONCE))
        return sum(int(self.row_tokens(part, close_every_chunk=close_every_chunk).sum()) for part in parts)

    def _chunk_numbers(self, rows: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
        """Return the chunk numbers of rows, one row after the other, and the number of chunks of each row."""
        starts = self._rows.starts[rows].astype(np.int64)
        counts = self._rows.starts[rows + 1] - starts
        offsets = np.cumsum(counts) - counts
        places = np.arange(int(counts.sum())) + np.repeat(starts - offsets, counts)
        return self._rows.chunks[places], counts

    def _order(self, epoch: int) -> NDArray[np.integer]:
        """Return the stored numbers of the rows in the order of an epoch."""
        if epoch not in self._orders:
            self._orders[epoch] = self._make_order(epoch)
            while len(self._orders) > _KEPT_EPOCHS:
                self._orders.popitem(last=False)
        return self._orders[epoch]

    def _make_order(self, epoch: int) -> NDArray[np.integer]:
        def build() -> Arrays:
            return {"order": epoch_order(self.num_rows, self._seed, epoch, self.source)}

        if self._cache is None or self.num_rows < LARGE_ORDER:
            return build()["order"]
        order = {"seed": self._seed, "epoch": epoch, "source": self.source}
        return self._cache.with_facts(order=order).get(build)["order"]


def _tables(chunks: ChunkTable, seq_length: int, packing: str) -> Arrays:
    """Pack chunks into rows, and return the tables of both as arrays for the cache."""
    size_type: type[np.integer] = np.uint16 if seq_length <= np.iinfo(np.uint16).max else np.int32
    sizes: NDArray[Any] = chunks.lengths.astype(size_type, copy=False) + size_type(SPECIAL_POSITIONS)
    table = one_row_each(len(sizes)) if packing == "none" else pack_best_fit(sizes, seq_length)
    kind = np.int32 if len(sizes) <= np.iinfo(np.int32).max else np.int64
    dropped = chunks.dropped
    totals = [dropped.chunks, dropped.tokens, dropped.of_tokens, int(sizes.sum(dtype=np.int64))]
    return {
        "first_pieces": chunks.first_chunks,
        "coarse": chunks.first_chunks[::SEARCH_STEP],
        "lengths": chunks.lengths,
        "shortened": chunks.shortened,
        "row_pieces": table.chunks,
        "row_starts": table.starts.astype(kind, copy=False),
        "totals": np.array(totals, np.int64),
    }


def epoch_order(num_rows: int, seed: int, epoch: int, source: int = 0) -> NDArray[np.integer]:
    """Return the row numbers of a source in their training order in ``epoch``."""
    # The shuffle does not depend on the type of the numbers.
    kind: type[np.signedinteger] = np.int32 if num_rows <= np.iinfo(np.int32).max else np.int64
    order: NDArray[np.integer] = np.arange(num_rows, dtype=kind)
    random_stream(seed, Purpose.ROW_ORDER, epoch, source).shuffle(order)
    return order


class EvaluationRows(Sequence[Row]):
    """Every chunk of some documents of one source exactly once, packed into rows.

    Scores do not depend on which chunks share a row: attention stays within a chunk, and masks are keyed by document
    and chunk.
    """

    def __init__(self, rows: RowDataset, name: str = "") -> None:
        """Wrap the rows of a source, in their stored order.

        Args:
            rows: of the source.
            name: of the source, for its own metrics.
        """
        self._rows = rows
        self.name = name

    def documents(self) -> tuple[Documents, NDArray[np.int64]]:
        """Return the numbers of the documents and their lengths in tokens, without [CLS] and [SEP]."""
        return self._rows.documents()

    def __len__(self) -> int:
        return self._rows.num_rows

    def __iter__(self) -> Iterator[Row]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Row:  # type: ignore[override]
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._rows.stored_row(number)


def evaluation_rows(
    corpus: IndexedTokens, documents: Documents, seq_length: int, *, sep_id: EndTokens | None, source: int = 0
) -> EvaluationRows:
    """Return all chunks of ``documents``, with nothing dropped."""
    return EvaluationRows(RowDataset(corpus, documents, seq_length, sep_id=sep_id, source=source))
