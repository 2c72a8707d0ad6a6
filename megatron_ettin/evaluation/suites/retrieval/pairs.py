"""Queries and the documents they ask for: to learn from, and to rank."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Pair = tuple[str, str]
"""A query and a document that answers it."""

HELD_OUT_SEED = 12
"""Of the pairs held out, as in the paper's training script; the same for all models and seeds."""


@dataclass(frozen=True)
class Retrieval:
    """Queries, documents, and which document is relevant to which query."""

    queries: Sequence[str]
    documents: Sequence[str]
    relevant: Sequence[Sequence[int]]
    """For each query, indices of documents."""

    @classmethod
    def of_pairs(cls, pairs: Iterable[Pair], distractors: Iterable[str] = ()) -> Retrieval:
        """Take the different queries and documents of pairs; a query that comes twice has two relevant documents.

        Args:
            pairs: queries with their documents.
            distractors: documents that are relevant to no query, unless they are among the pairs' own.
        """
        queries: dict[str, list[int]] = {}
        documents: dict[str, int] = {}
        for query, document in pairs:
            index = documents.setdefault(document, len(documents))
            found = queries.setdefault(query, [])
            if index not in found:
                found.append(index)
        for document in distractors:
            documents.setdefault(document, len(documents))
        return cls(list(queries), list(documents), list(queries.values()))


def hold_out(pairs: Sequence[Pair], num_held_out: int) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs to learn from and those to choose on, drawn without regard to their order.

    Args:
        pairs: all pairs of the training file.
        num_held_out: how many to choose on; a tenth of the pairs where that is fewer.
    """
    shuffled = list(pairs)
    random.Random(HELD_OUT_SEED).shuffle(shuffled)
    num_held_out = min(num_held_out, len(shuffled) // 10)
    return shuffled[num_held_out:], shuffled[:num_held_out]


def checksum_of(*parts: Sequence[object]) -> str:
    """Return the SHA-256 of texts in their order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(list(part)).encode())
    return digest.hexdigest()
