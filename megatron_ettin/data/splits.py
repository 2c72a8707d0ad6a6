"""Splits of a corpus into training, validation and test documents."""

from __future__ import annotations

from itertools import accumulate
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.config.value_types import Split
from megatron_ettin.data.rng import uniform_of

Documents = range | NDArray[np.integer]
"""Numbers of documents, ascending."""

SPLIT_NAMES = ("training", "validation", "test")

_HASHED_AT_ONCE = 2**22


def split_documents(num_documents: int, split: Split) -> tuple[range, range, range]:
    """Cut the documents into three ranges with the given proportions, in megatron-core's arithmetic.

    Args:
        num_documents: documents in the corpus.
        split: the proportions.
    """
    # Summed and rounded in this order, a document at a border gets the side that megatron-core gives it.
    ends = [round(end * num_documents) for end in accumulate(split.shares)]
    return range(ends[0]), range(ends[0], ends[1]), range(ends[1], ends[2])


def split_by_hash(num_documents: int, split: Split, shard: str) -> tuple[Documents, Documents, Documents]:
    """Assign each document by a hash of the shard's name and its number in the shard.

    Nothing else decides its split: a document stays there when others are appended or further shards are added.

    Args:
        num_documents: documents in the shard.
        split: the proportions.
        shard: its name, without a folder.
    """
    borders = np.cumsum(split.shares)[:-1]
    kind: type[np.integer] = np.int32 if num_documents <= np.iinfo(np.int32).max else np.int64
    splits: list[list[NDArray[np.integer]]] = [[np.zeros(0, kind)] for _ in SPLIT_NAMES]
    for start in range(0, num_documents, _HASHED_AT_ONCE):
        numbers = np.arange(start, min(start + _HASHED_AT_ONCE, num_documents))
        split_of = np.searchsorted(borders, uniform_of(f"split {shard}", numbers), side="right")
        for index, blocks in enumerate(splits):
            blocks.append(numbers[split_of == index].astype(kind))
    training, validation, test = map(np.concatenate, splits)
    return training, validation, test


def split_corpus(num_documents: int, split: Split, split_by: str, prefix: str) -> dict[str, Documents]:
    """Return the documents of each split by its name, according to ``--split`` and ``--split-by``."""
    if split_by == "hash":
        parts: tuple[Documents, ...] = split_by_hash(num_documents, split, PurePath(prefix).name)
    else:
        parts = split_documents(num_documents, split)
    return dict(zip(SPLIT_NAMES, parts, strict=True))
