"""Chunk lengths of long documents, by the published recipe.

A document is cut into full chunks and a remainder. A remainder shorter than ``skip_size`` is dropped; one shorter than
``min_size`` receives a random number of tokens from the end of the previous chunk (moved, not duplicated) that leaves
both with ``min_size`` or more. The first chunk of a document is always kept, and no chunk crosses documents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.rng import uniform_of
from megatron_ettin.data.splits import Documents

SPECIAL_POSITIONS = 2
"""Positions of a row that a chunk may need in addition to its content: [CLS] before it and [SEP] after it."""

_BACKFILL = "backfill"


@dataclass(frozen=True)
class ChunkRule:
    """How documents are cut. Sizes are positions, including [CLS] and [SEP]."""

    size: int = 0
    """Of a full chunk; 0 is the row length."""
    min_size: int = 0
    """A last chunk shorter than this is filled up from the previous one."""
    skip_size: int = 0
    """A last chunk shorter than this is dropped, unless it is the first."""
    sentence_ends: NDArray[np.bool_] | None = None
    """Which token ids end a sentence, to cut after sentences; None cuts anywhere."""
    close_shortened: bool = False
    """Whether a document whose remainder was dropped counts as complete, so that its last chunk is closed."""

    @property
    def min_content(self) -> int:
        """``min_size`` in tokens of content."""
        return max(0, self.min_size - SPECIAL_POSITIONS)

    @property
    def skip_content(self) -> int:
        """``skip_size`` in tokens of content."""
        return max(0, self.skip_size - SPECIAL_POSITIONS)


@dataclass(frozen=True)
class Dropped:
    """What chunking dropped."""

    chunks: int = 0
    tokens: int = 0
    of_tokens: int = 0
    """Tokens of all documents, dropped or not."""

    def __add__(self, other: Dropped) -> Dropped:
        return Dropped(self.chunks + other.chunks, self.tokens + other.tokens, self.of_tokens + other.of_tokens)

    @property
    def share(self) -> float:
        """Dropped fraction of the tokens."""
        return self.tokens / max(1, self.of_tokens)


def cut_lengths(
    sizes: NDArray[np.int64], documents: Documents, content: int, rule: ChunkRule
) -> tuple[NDArray[np.int64], NDArray[np.int64], Dropped]:
    """Return the number of chunks of each document, the lengths of all chunks, and what was dropped.

    Args:
        sizes: tokens of each document.
        documents: their numbers, which seed how many tokens are moved.
        content: tokens of a full chunk.
        rule: ``min_size`` and ``skip_size``; ``content`` replaces ``size``.
    """
    counts, rests = np.divmod(sizes, content)
    is_dropped = (counts > 0) & (rests > 0) & (rests < rule.skip_content)
    dropped = Dropped(int(is_dropped.sum()), int(rests[is_dropped].sum()), int(sizes.sum()))
    has_rest = (rests > 0) & ~is_dropped
    counts += has_rest
    lengths = np.full(int(counts.sum()), content, np.int64)
    lasts = np.cumsum(counts) - 1
    lengths[lasts[has_rest]] = rests[has_rest]
    _fill_short_ends(lengths, lasts, counts, documents, rule)
    return counts, lengths, dropped


def cut_at_sentences(
    tokens: NDArray[np.integer],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    documents: Documents,
    content: int,
    rule: ChunkRule,
) -> tuple[NDArray[np.int64], NDArray[np.int64], Dropped]:
    """Cut as :func:`cut_lengths` does, but each chunk after the last sentence that ends in its second half.

    A chunk without such a sentence is full. The k-th chunks of all documents are cut in one vectorised pass.

    Args:
        tokens: of the corpus.
        starts: offset of each document in ``tokens``.
        sizes: tokens of each document.
        documents: their numbers, which seed how many tokens are moved.
        content: maximum tokens of a chunk.
        rule: sizes, and the tokens that end a sentence.
    """
    assert rule.sentence_ends is not None
    if len(sizes) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), Dropped()
    base = int(starts[0])
    ids = tokens[base : int((starts + sizes).max())]
    inside = ids < len(rule.sentence_ends)
    borders = base + 1 + np.flatnonzero(rule.sentence_ends[np.where(inside, ids, 0)] & inside)
    done = np.zeros(len(sizes), np.int64)
    owners: list[NDArray[np.int64]] = []
    cuts: list[NDArray[np.int64]] = []
    dropped_chunks = dropped_tokens = 0
    pending = np.flatnonzero(sizes)
    while len(pending):
        left = sizes[pending] - done[pending]
        is_long = left > content
        length = np.minimum(left, content)
        length[is_long] = _cut_after_sentence(borders, starts[pending[is_long]] + done[pending[is_long]], content)
        is_dropped = (done[pending] > 0) & ~is_long & (length < rule.skip_content)
        dropped_chunks += int(is_dropped.sum())
        dropped_tokens += int(length[is_dropped].sum())
        owners.append(pending[~is_dropped])
        cuts.append(length[~is_dropped])
        done[pending] += length
        pending = pending[done[pending] < sizes[pending]]
    owner = np.concatenate(owners) if owners else np.zeros(0, np.int64)
    lengths = np.concatenate(cuts)[np.argsort(owner, kind="stable")] if cuts else np.zeros(0, np.int64)
    counts = np.bincount(owner, minlength=len(sizes))
    _fill_short_ends(lengths, np.cumsum(counts) - 1, counts, documents, rule)
    return counts, lengths, Dropped(dropped_chunks, dropped_tokens, int(sizes.sum()))


def _cut_after_sentence(borders: NDArray[np.int64], start: NDArray[np.int64], content: int) -> NDArray[np.int64]:
    """Return the length of each chunk: up to the last border in its second half, or ``content``."""
    if len(borders) == 0:
        return np.full(len(start), content, np.int64)
    last = borders[np.maximum(borders.searchsorted(start + content, side="right") - 1, 0)] - start
    return np.where((last > content // 2) & (last <= content), last, content)


def _fill_short_ends(
    lengths: NDArray[np.int64],
    lasts: NDArray[np.int64],
    counts: NDArray[np.int64],
    documents: Documents,
    rule: ChunkRule,
) -> None:
    """Move tokens to each last chunk that is too short from the previous one, in place."""
    least = rule.min_content
    if least == 0:
        return
    places = np.flatnonzero(counts > 1)
    places = places[lengths[lasts[places]] < least]
    ends = lasts[places]
    needed = least - lengths[ends]
    # A cut after a sentence may have left the previous chunk too short to give tokens.
    spare = np.maximum(lengths[ends - 1] - least, 0)
    can = spare >= needed
    places, ends, needed, spare = places[can], ends[can], needed[can], spare[can]
    moved = needed + (uniform_of(_BACKFILL, np.asarray(documents)[places]) * (spare - needed + 1)).astype(np.int64)
    lengths[ends] += moved
    lengths[ends - 1] -= moved
