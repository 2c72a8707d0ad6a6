"""Which documents are for training, validation and test."""

from __future__ import annotations

from itertools import accumulate
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.config.value_types import Split
from megatron_ettin.data.rng import uniform_of

SPLIT_NAMES = ("training", "validation", "test")

_HASHED_AT_ONCE = 2**22


def split_documents(num_documents: int, split: Split) -> tuple[range, range, range]:
    """Cut the documents into three ranges with the given proportions, in megatron-core's arithmetic.

    Args:
        num_documents: documents in the corpus.
        split: parts of the whole.
    """
    # Summed and rounded in this order: a document at a border is on the side where megatron-core has it.
    ends = [round(end * num_documents) for end in accumulate(split.shares)]
    return range(ends[0]), range(ends[0], ends[1]), range(ends[1], ends[2])


Documents = range | NDArray[np.integer]
"""Numbers of documents, ascending."""


def split_by_hash(num_documents: int, split: Split, shard: str) -> tuple[Documents, Documents, Documents]:
    """Deal the documents out by a hash of the shard's name and their numbers in it.

    Where a document belongs depends on nothing else: it stays there when documents are appended to the shard or other
    shards are added.

    Args:
        num_documents: documents in the shard.
        split: parts of the whole, as in :func:`split_documents`.
        shard: its name, without a folder.
    """
    borders = np.cumsum(split.shares)[:-1]
    kind: type[np.integer] = np.int32 if num_documents <= np.iinfo(np.int32).max else np.int64
    found: list[list[NDArray[np.integer]]] = [[], [], []]
    for begin in range(0, num_documents, _HASHED_AT_ONCE):
        numbers = np.arange(begin, min(begin + _HASHED_AT_ONCE, num_documents))
        part = np.searchsorted(borders, uniform_of(f"split {shard}", numbers), side="right")
        for place, kept in enumerate(found):
            kept.append(numbers[part == place].astype(kind))
    training, validation, test = (np.concatenate(kept) if kept else np.zeros(0, kind) for kept in found)
    return training, validation, test


def split_corpus(num_documents: int, split: Split, split_by: str, prefix: str) -> dict[str, Documents]:
    """Return the documents of each split by its name, as ``--split`` and ``--split-by`` say."""
    if split_by == "hash":
        parts: tuple[Documents, ...] = split_by_hash(num_documents, split, PurePath(prefix).name)
    else:
        parts = split_documents(num_documents, split)
    return dict(zip(SPLIT_NAMES, parts, strict=True))
