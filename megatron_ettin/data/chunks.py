"""Documents cut into chunks that fit a row, and chunks looked up by number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.chunk_lengths import SPECIAL_POSITIONS, ChunkRule, Dropped, cut_at_sentences, cut_lengths
from megatron_ettin.data.corpus.indexed import IndexedTokens
from megatron_ettin.data.corpus.special_tokens import EndTokens
from megatron_ettin.data.splits import Documents

SEARCH_STEP = 256
"""Distance of the entries of ``ChunkTable.coarse``."""

_BLOCK_DOCUMENTS = 2**22
_BLOCK_TOKENS = 2**25
"""Documents that are cut at a time, and tokens where cutting reads them."""


@dataclass(frozen=True)
class Chunk:
    """A part of one document, put between [CLS] and [SEP] in a row."""

    document: int
    index: int
    """Number of the chunk in its document, from 0."""
    tokens: NDArray[np.integer]
    ends_document: bool
    source: int = 0
    """Number of its corpus in the blend."""


@dataclass(frozen=True)
class ChunkTable:
    """All chunks of some documents, in document order: 2 or 4 bytes per chunk and 4 or 8 per document."""

    documents: Documents
    first_chunks: NDArray[np.integer]
    """Number of each document's first chunk, and the number of chunks; [D + 1]."""
    lengths: NDArray[np.integer]
    """Tokens of each chunk. The chunks of a document are contiguous from its start."""
    dropped: Dropped = field(default_factory=Dropped)
    source: int = 0
    """Number of the corpus in the blend."""
    shortened: NDArray[np.integer] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Places in ``documents`` whose remainder was dropped, ascending: their last chunk does not end the document."""
    coarse: NDArray[np.integer] | None = None
    """Every SEARCH_STEP-th entry of ``first_chunks``, so that a lookup in a table on disk touches few pages."""

    def __len__(self) -> int:
        return len(self.lengths)

    def document_sizes(self) -> NDArray[np.int64]:
        """Return the tokens of each document that are in chunks."""
        before = np.concatenate(([0], np.cumsum(self.lengths, dtype=np.int64)))
        return np.diff(before[self.first_chunks])

    def chunks(self, numbers: NDArray[np.integer], corpus: IndexedTokens) -> list[Chunk]:
        """Return chunks by number, with their tokens."""
        places, firsts, ends = self._documents_of(numbers)
        ends_document = self._ends_document(numbers, places, ends).tolist()
        documents = [int(self.documents[place]) for place in places.tolist()]
        starts = corpus.document_starts[np.array(documents, dtype=np.int64)].tolist()
        tokens, lengths, source = corpus.tokens, self.lengths[numbers].tolist(), self.source
        chunks = []
        for document, start, number, first, is_end, length in zip(
            documents, starts, numbers.tolist(), firsts.tolist(), ends_document, lengths, strict=True
        ):
            if number > first:
                start += int(self.lengths[first:number].sum(dtype=np.int64))
            content = tokens[start : start + length]
            chunks.append(Chunk(document, number - first, content, is_end, source))
        return chunks

    def ends_document(self, numbers: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Return which chunks end their documents: the last ones, unless tokens after them were dropped."""
        places, _, ends = self._documents_of(numbers)
        return self._ends_document(numbers, places, ends)

    def _ends_document(
        self, numbers: NDArray[np.integer], places: NDArray[np.int64], ends: NDArray[np.integer]
    ) -> NDArray[np.bool_]:
        is_last = ends == numbers + 1
        if len(self.shortened) == 0:
            return is_last
        nearest = np.minimum(self.shortened.searchsorted(places), len(self.shortened) - 1)
        return is_last & (self.shortened[nearest] != places)

    def _documents_of(
        self, numbers: NDArray[np.integer]
    ) -> tuple[NDArray[np.int64], NDArray[np.integer], NDArray[np.integer]]:
        """Return each chunk's document (a place in ``documents``), its document's first chunk, and the end of these."""
        # The last document that starts at or before the chunk; one without chunks starts where the next one does.
        keys = numbers.astype(self.first_chunks.dtype, copy=False)
        places = self._last_at_or_before(keys)
        return places, self.first_chunks[places], self.first_chunks[places + 1]

    def _last_at_or_before(self, keys: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return for each key the last entry of ``first_chunks`` that is not above it."""
        if self.coarse is None:
            return self.first_chunks.searchsorted(keys, side="right") - 1
        starts = (self.coarse.searchsorted(keys, side="right") - 1) * SEARCH_STEP
        places = starts[:, None] + np.arange(SEARCH_STEP)
        inside = places < len(self.first_chunks)
        not_above = self.first_chunks[np.where(inside, places, 0)] <= keys[:, None]
        return starts + (not_above & inside).sum(axis=1) - 1


def cut_documents(
    corpus: IndexedTokens,
    documents: Documents,
    seq_length: int,
    sep_id: EndTokens | None,
    rule: ChunkRule | None = None,
    *,
    all_closed: bool | None = None,
    source: int = 0,
) -> ChunkTable:
    """Cut every document into chunks of at most ``seq_length`` positions, including [CLS] and [SEP].

    Without a rule nothing is dropped, and the last chunk of a document may be short. Empty documents have no chunks.

    Args:
        corpus: the tokens.
        documents: which of its documents, ascending.
        seq_length: positions of a row.
        sep_id: a [SEP] that preprocessing appended to a document is not content: it is dropped here and added again
            when batches are built.
        rule: how long documents are cut.
        all_closed: whether every document ends with ``sep_id``, or none does; None checks each.
        source: number of the corpus in the blend.
    """
    rule = rule or ChunkRule()
    content = (rule.size or seq_length) - SPECIAL_POSITIONS
    narrow = content <= np.iinfo(np.uint16).max
    counts, lengths, shortened, dropped = [], [], [], Dropped()
    place = 0
    for block in _blocks(documents, corpus, rule):
        starts, ends = document_bounds(corpus, block)
        sizes = content_sizes(corpus, starts, ends, sep_id, all_closed)
        if rule.sentence_ends is None:
            of_documents, of_chunks, of_block = cut_lengths(sizes, block, content, rule)
        else:
            of_documents, of_chunks, of_block = cut_at_sentences(corpus.tokens, starts, sizes, block, content, rule)
        counts.append(of_documents.astype(np.int32))
        lengths.append(of_chunks.astype(np.uint16 if narrow else np.int32))
        if not rule.close_shortened:
            shortened.append(place + _shortened(sizes, of_documents, of_chunks))
        place += len(sizes)
        dropped += of_block
    total = sum(map(len, lengths))
    first_chunks: NDArray[Any] = np.zeros(len(documents) + 1, np.int32 if total <= np.iinfo(np.int32).max else np.int64)
    if counts:
        np.cumsum(np.concatenate(counts), out=first_chunks[1:])
    joined: NDArray[Any] = np.concatenate([np.zeros(0, np.uint16), *lengths])
    incomplete = np.concatenate([np.zeros(0, np.int64), *shortened])
    return ChunkTable(documents, first_chunks, joined, dropped, source, incomplete)


def _shortened(sizes: NDArray[np.int64], counts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the documents that have chunks, but not of all their tokens."""
    ends = np.cumsum(counts)
    before = np.concatenate(([0], np.cumsum(lengths)))
    kept = before[ends] - before[ends - counts]
    return np.flatnonzero((counts > 0) & (kept < sizes))


def _blocks(documents: Documents, corpus: IndexedTokens, rule: ChunkRule) -> Sequence[Documents]:
    """Return the documents in blocks that fit in memory."""
    if rule.sentence_ends is None or len(documents) == 0:
        return [documents[at : at + _BLOCK_DOCUMENTS] for at in range(0, len(documents), _BLOCK_DOCUMENTS)]
    borders, start = [], 0
    while start < len(documents):
        borders.append(start)
        # Cutting reads the tokens: a block has at most _BLOCK_TOKENS of them, or one document.
        offsets = corpus.document_starts[np.asarray(documents[start : start + _BLOCK_DOCUMENTS])]
        start += max(1, int(np.searchsorted(offsets, offsets[0] + _BLOCK_TOKENS)))
    borders.append(len(documents))
    return [documents[start:stop] for start, stop in pairwise(borders)]


def document_bounds(corpus: IndexedTokens, block: Documents) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the start and end of each document of a block, in tokens."""
    if isinstance(block, range):
        bounds = corpus.document_starts[block.start : block.stop + 1]
        return bounds[:-1], bounds[1:]
    return corpus.document_starts[block], corpus.document_starts[block + 1]


def content_sizes(
    corpus: IndexedTokens,
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    sep_id: EndTokens | None,
    all_closed: bool | None = None,
) -> NDArray[np.int64]:
    """Return the tokens of documents without a final [SEP].

    Args:
        corpus: the tokens.
        starts: offset of each document in the corpus.
        ends: of each document.
        sep_id: see :func:`cut_documents`.
        all_closed: see :func:`cut_documents`.
    """
    sizes = ends - starts
    sizes -= _closed(corpus, sizes, ends, sep_id, all_closed)
    return sizes


def _closed(
    corpus: IndexedTokens,
    sizes: NDArray[np.int64],
    ends: NDArray[np.int64],
    sep_id: EndTokens | None,
    all_closed: bool | None,
) -> NDArray[np.bool_]:
    """Return which documents end with [SEP]."""
    filled = sizes > 0
    if sep_id is None or all_closed is False:
        return np.zeros(len(sizes), dtype=bool)
    if all_closed:
        return filled
    closed = np.zeros(len(sizes), dtype=bool)
    closed[filled] = np.isin(corpus.tokens[ends[filled] - 1], sep_id)
    return closed
