"""Where a long document is cut: the published recipe's chunks, from lengths alone.

A document gives as many full chunks as it has, and its rest. A rest shorter than ``skip_size`` is dropped; one shorter
than ``min_size`` takes tokens from the end of the chunk before (moved, not doubled): a random number of them that
leaves both at ``min_size`` or more. A document's first chunk is kept however short it is, and no chunk holds tokens of
two documents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.rng import uniform_of
from megatron_ettin.data.splits import Documents

_BACKFILL = "backfill"


@dataclass(frozen=True)
class ChunkRule:
    """How documents are cut. Sizes are positions, [CLS] and [SEP] counted."""

    size: int = 0
    """Of a full chunk; 0 is the row's."""
    min_size: int = 0
    """A later chunk shorter than this is filled up from the one before."""
    skip_size: int = 0
    """A later chunk shorter than this is dropped."""
    sentence_ends: NDArray[np.bool_] | None = None
    """Which token ids end a sentence, where cuts are to fall behind one."""

    def smallest_content(self, special: int = 2) -> int:
        """Return ``min_size`` in tokens of content."""
        return max(0, self.min_size - special)

    def skipped_content(self, special: int = 2) -> int:
        """Return ``skip_size`` in tokens of content."""
        return max(0, self.skip_size - special)


@dataclass(frozen=True)
class Dropped:
    """What chunking left out."""

    chunks: int = 0
    tokens: int = 0
    of_tokens: int = 0
    """Tokens of all documents."""

    def __add__(self, other: Dropped) -> Dropped:
        return Dropped(self.chunks + other.chunks, self.tokens + other.tokens, self.of_tokens + other.of_tokens)

    @property
    def share(self) -> float:
        """Of the tokens."""
        return self.tokens / max(1, self.of_tokens)


def cut_lengths(
    sizes: NDArray[np.int64], documents: Documents, content: int, rule: ChunkRule
) -> tuple[NDArray[np.int64], NDArray[np.int64], Dropped]:
    """Return the number of chunks of each document, the lengths of all chunks, and what was dropped.

    Args:
        sizes: tokens of each document.
        documents: their numbers, which decide how much is moved.
        content: tokens of a full chunk.
        rule: its sizes; ``content`` stands for ``size``.
    """
    counts, rests = np.divmod(sizes, content)
    skipped = (counts > 0) & (rests > 0) & (rests < rule.skipped_content())
    has_rest = (rests > 0) & ~skipped
    lost = Dropped(int(skipped.sum()), int(rests[skipped].sum()), int(sizes.sum()))
    counts += has_rest
    lengths = np.full(int(counts.sum()), content, np.int64)
    lasts = np.cumsum(counts) - 1
    lengths[lasts[has_rest]] = rests[has_rest]
    fill_short_ends(lengths, lasts, counts, documents, rule)
    return counts, lengths, lost


def fill_short_ends(
    lengths: NDArray[np.int64],
    lasts: NDArray[np.int64],
    counts: NDArray[np.int64],
    documents: Documents,
    rule: ChunkRule,
) -> None:
    """Move tokens from the chunk before to each last chunk that is too short, in ``lengths`` itself."""
    least = rule.smallest_content()
    if least == 0:
        return
    rows = np.flatnonzero(counts > 1)
    rows = rows[lengths[lasts[rows]] < least]
    ends = lasts[rows]
    needed = least - lengths[ends]
    # A sentence's end may have made the chunk before too short to share.
    spare = np.maximum(lengths[ends - 1] - least, 0)
    can = spare >= needed
    rows, ends, needed, spare = rows[can], ends[can], needed[can], spare[can]
    moved = needed + (uniform_of(_BACKFILL, np.asarray(documents)[rows]) * (spare - needed + 1)).astype(np.int64)
    lengths[ends] += moved
    lengths[ends - 1] -= moved


def cut_at_sentences(
    tokens: NDArray[np.integer],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    documents: Documents,
    content: int,
    rule: ChunkRule,
) -> tuple[NDArray[np.int64], NDArray[np.int64], Dropped]:
    """Cut as :func:`cut_lengths` does, but each chunk behind the last sentence that ends in its second half.

    Where none does, the chunk is full. All documents of the block are cut side by side, chunk after chunk.

    Args:
        tokens: of the corpus.
        starts: where each document begins in ``tokens``.
        sizes: tokens of each document.
        documents: their numbers.
        content: most tokens of a chunk.
        rule: its sizes and the table of tokens that end a sentence.
    """
    assert rule.sentence_ends is not None
    if len(sizes) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), Dropped()
    base = int(starts[0])
    ids = np.asarray(tokens[base : int((starts + sizes).max())])
    inside = ids < len(rule.sentence_ends)
    borders = base + 1 + np.flatnonzero(rule.sentence_ends[np.where(inside, ids, 0)] & inside)
    done = np.zeros(len(sizes), np.int64)
    owners: list[NDArray[np.int64]] = []
    cuts: list[NDArray[np.int64]] = []
    skipped_chunks = skipped_tokens = 0
    open_rows = np.flatnonzero(sizes)
    while len(open_rows):
        begin = starts[open_rows] + done[open_rows]
        length = np.minimum(sizes[open_rows] - done[open_rows], content)
        long = sizes[open_rows] - done[open_rows] > content
        length[long] = _cut_behind_sentence(borders, begin[long], content)
        is_skipped = (done[open_rows] > 0) & ~long & (length < rule.skipped_content())
        skipped_chunks += int(is_skipped.sum())
        skipped_tokens += int(length[is_skipped].sum())
        owners.append(open_rows[~is_skipped])
        cuts.append(length[~is_skipped])
        done[open_rows] += length
        open_rows = open_rows[done[open_rows] < sizes[open_rows]]
    owner = np.concatenate(owners) if owners else np.zeros(0, np.int64)
    lengths = np.concatenate(cuts)[np.argsort(owner, kind="stable")] if cuts else np.zeros(0, np.int64)
    counts = np.bincount(owner, minlength=len(sizes))
    fill_short_ends(lengths, np.cumsum(counts) - 1, counts, documents, rule)
    return counts, lengths, Dropped(skipped_chunks, skipped_tokens, int(sizes.sum()))


def _cut_behind_sentence(borders: NDArray[np.int64], begin: NDArray[np.int64], content: int) -> NDArray[np.int64]:
    """Return how much each chunk takes: up to the last border in its second half, or all it may."""
    if len(borders) == 0:
        return np.full(len(begin), content, np.int64)
    last = borders[np.maximum(borders.searchsorted(begin + content, side="right") - 1, 0)] - begin
    return np.where((last > content // 2) & (last <= content), last, content)
