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

from megatron_ettin.data.hashing import uniform_of
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

    pieces: int = 0
    tokens: int = 0
    of_tokens: int = 0
    """Tokens of all documents."""

    def __add__(self, other: Dropped) -> Dropped:
        return Dropped(self.pieces + other.pieces, self.tokens + other.tokens, self.of_tokens + other.of_tokens)

    @property
    def share(self) -> float:
        """Of the tokens."""
        return self.tokens / max(1, self.of_tokens)


def cut_lengths(
    sizes: NDArray[np.int64], documents: Documents, content: int, rule: ChunkRule
) -> tuple[NDArray[np.int64], NDArray[np.int64], Dropped]:
    """Return the number of pieces of each document, the lengths of all pieces, and what was dropped.

    Args:
        sizes: tokens of each document.
        documents: their numbers, which decide how much is moved.
        content: tokens of a full piece.
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
    """Move tokens from the piece before to each last piece that is too short, in ``lengths`` itself."""
    least = rule.smallest_content()
    if least == 0:
        return
    rows = np.flatnonzero(counts > 1)
    rows = rows[lengths[lasts[rows]] < least]
    ends = lasts[rows]
    needed = least - lengths[ends]
    # A sentence's end may have made the piece before too short to share.
    spare = np.maximum(lengths[ends - 1] - least, 0)
    can = spare >= needed
    rows, ends, needed, spare = rows[can], ends[can], needed[can], spare[can]
    moved = needed + (uniform_of(_BACKFILL, np.asarray(documents)[rows]) * (spare - needed + 1)).astype(np.int64)
    lengths[ends] += moved
    lengths[ends - 1] -= moved
