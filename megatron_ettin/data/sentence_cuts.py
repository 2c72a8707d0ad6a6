"""Long documents cut behind sentences: the one part of building rows that reads the tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.chunking import ChunkRule, Dropped, fill_short_ends
from megatron_ettin.data.splits import Documents


def cut_at_sentences(
    tokens: NDArray[np.integer],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    documents: Documents,
    content: int,
    rule: ChunkRule,
) -> tuple[NDArray[np.int64], NDArray[np.int64], Dropped]:
    """Cut as :func:`cut_lengths` does, but each piece behind the last sentence that ends in its second half.

    Where none does, the piece is full. All documents of the block are cut side by side, piece after piece.

    Args:
        tokens: of the corpus.
        starts: where each document begins in ``tokens``.
        sizes: tokens of each document.
        documents: their numbers.
        content: most tokens of a piece.
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
    skipped_pieces = skipped_tokens = 0
    open_rows = np.flatnonzero(sizes)
    while len(open_rows):
        begin = starts[open_rows] + done[open_rows]
        length = np.minimum(sizes[open_rows] - done[open_rows], content)
        long = sizes[open_rows] - done[open_rows] > content
        length[long] = _cut_behind_sentence(borders, begin[long], content)
        is_skipped = (done[open_rows] > 0) & ~long & (length < rule.skipped_content())
        skipped_pieces += int(is_skipped.sum())
        skipped_tokens += int(length[is_skipped].sum())
        owners.append(open_rows[~is_skipped])
        cuts.append(length[~is_skipped])
        done[open_rows] += length
        open_rows = open_rows[done[open_rows] < sizes[open_rows]]
    owner = np.concatenate(owners) if owners else np.zeros(0, np.int64)
    lengths = np.concatenate(cuts)[np.argsort(owner, kind="stable")] if cuts else np.zeros(0, np.int64)
    counts = np.bincount(owner, minlength=len(sizes))
    fill_short_ends(lengths, np.cumsum(counts) - 1, counts, documents, rule)
    return counts, lengths, Dropped(skipped_pieces, skipped_tokens, int(sizes.sum()))


def _cut_behind_sentence(borders: NDArray[np.int64], begin: NDArray[np.int64], content: int) -> NDArray[np.int64]:
    """Return how much each piece takes: up to the last border in its second half, or all it may."""
    if len(borders) == 0:
        return np.full(len(begin), content, np.int64)
    last = borders[np.maximum(borders.searchsorted(begin + content, side="right") - 1, 0)] - begin
    return np.where((last > content // 2) & (last <= content), last, content)
