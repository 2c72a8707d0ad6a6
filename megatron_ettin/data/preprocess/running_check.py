"""Encode a few documents of a running job with both libraries, and find the first on which they differ.

One document in 2,048 is checked: at 1/35 of gigatoken's speed, that costs the job less than 2%. Which ones depends on
the document's number and text alone, so a resumed or sharded job checks the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from megatron_ettin.data.preprocess.documents import Value
from megatron_ettin.data.preprocess.encoders import Encoder, Ids

NUMBERS_KEPT, TEXTS_KEPT = 32, 64
"""One document in 32 is kept by its number, and one in 64 of those by its text."""
_MULTIPLIER = 0x9E3779B97F4A7C15
"""Of Fibonacci hashing: consecutive numbers differ in the high bits of the product."""


class EncodersDiffer(Exception):
    """Two encoders give a text different ids; the message shows where."""


def checked_places(task: int, file: int, numbers: Sequence[int], documents: Sequence[Value]) -> Iterator[int]:
    """Yield the places of the documents to check.

    Args:
        task: number of the task that reads them.
        file: index of their file in the list of inputs.
        numbers: number of each document in its file, or in the task's span of it.
        documents: texts, or token ids, which are never checked.
    """
    source = np.uint64((task << 44 ^ file << 24) % (1 << 64))
    products = (np.asarray(numbers, np.uint64) + source) * np.uint64(_MULTIPLIER)
    for place in np.flatnonzero(products <= np.uint64((1 << 64) // NUMBERS_KEPT - 1)).tolist():
        document = documents[place]
        if isinstance(document, list):
            document = "\n".join(part for part in document if isinstance(part, str))
        if isinstance(document, str) and zlib.crc32(document.encode(), numbers[place]) % TEXTS_KEPT == 0:
            yield place


def check_ids(texts: Sequence[str], ids: Sequence[Ids], exact: Encoder) -> None:
    """Compare the ids of texts with those of the exact encoder.

    Raises:
        EncodersDiffer: they differ.
    """
    for text, given, expected in zip(texts, ids, exact.encode(texts), strict=True):
        if not np.array_equal(given, expected):
            shared = min(len(given), len(expected))
            place = next((n for n in range(shared) if given[n] != expected[n]), shared)
            raise EncodersDiffer(f"token {place} of a text that begins {text[:40]!r}")
