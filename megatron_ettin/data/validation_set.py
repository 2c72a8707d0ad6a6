"""Which held-out documents a validation scores: all of them, or a fixed sample of whole documents.

The sample is taken in an order that is a function of the documents' numbers alone. It is therefore the same for all
seeds, objectives, row lengths and layouts, and documents of every length are in it as often as in the split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.chunk_lengths import SPECIAL_POSITIONS
from megatron_ettin.data.chunks import content_sizes, document_bounds
from megatron_ettin.data.corpus.indexed import IndexedTokens
from megatron_ettin.data.corpus.special_tokens import EndTokens
from megatron_ettin.data.rng import uniform_of
from megatron_ettin.data.splits import Documents

_ORDER = "validation"
_BLOCK_DOCUMENTS = 2**22
"""Documents that are looked at together."""
_MARGIN = 1.05
"""Candidates per document that a sample is expected to need."""


@dataclass(frozen=True)
class ValidationSet:
    """What identifies the documents of a validation. Empty documents do not count."""

    documents: int
    tokens: int
    """With one [CLS] and one [SEP] per document."""
    digest: str
    """Hash of the numbers and lengths of the documents."""

    @classmethod
    def of_sources(cls, sources: Iterable[tuple[Documents, NDArray[np.int64]]]) -> ValidationSet:
        """Describe documents, given for each source as their numbers and lengths (without [CLS] and [SEP]).

        The order of the sources does not matter.
        """
        num_documents = num_tokens = 0
        digests = []
        for numbers, sizes in sources:
            filled = sizes > 0
            pairs = np.stack((np.asarray(numbers, dtype=np.int64)[filled], sizes[filled]), axis=1)
            num_documents += len(pairs)
            num_tokens += int(pairs[:, 1].sum()) + SPECIAL_POSITIONS * len(pairs)
            digests.append(hashlib.sha256(pairs.astype("<i8").tobytes()).digest())
        return cls(num_documents, num_tokens, hashlib.sha256(b"".join(sorted(digests))).hexdigest()[:16])


def share_limit(limit: int, sizes: Sequence[int]) -> list[int]:
    """Return the part of a limit for each source, in proportion to its size and rounded up."""
    total = max(1, sum(sizes))
    return [-(-limit * size // total) for size in sizes]


def stored_tokens(corpus: IndexedTokens, documents: Documents) -> int:
    """Return the tokens of documents as stored, with the [CLS] and [SEP] that each is given."""
    bounds = (document_bounds(corpus, block) for block in _blocks(documents))
    return sum(int((ends - starts).sum()) for starts, ends in bounds) + SPECIAL_POSITIONS * len(documents)


def sample_documents(corpus: IndexedTokens, documents: Documents, sep_id: EndTokens | None, limit: int) -> Documents:
    """Return documents in a fixed random order until they have ``limit`` tokens, sorted by number.

    The document that reaches the limit is the last one. Whether a document is taken thus depends on those before it,
    not on its own length, so that long documents are neither preferred nor avoided.

    Args:
        corpus: the tokens.
        documents: which of its documents to choose from, ascending.
        sep_id: see :func:`cut_documents`.
        limit: tokens, with one [CLS] and one [SEP] per document.
    """
    stored = stored_tokens(corpus, documents)
    if limit >= stored:
        return documents
    share = _MARGIN * limit / stored
    while True:
        # The first documents of the order have the smallest numbers, so only those below a bound are sorted.
        parts = [block[uniform_of(_ORDER, block) < share] for block in map(np.asarray, _blocks(documents))]
        candidates = np.concatenate(parts)
        candidates = candidates[np.argsort(uniform_of(_ORDER, candidates), kind="stable")]
        sizes = content_sizes(corpus, *document_bounds(corpus, candidates), sep_id)
        ends = np.cumsum(sizes + SPECIAL_POSITIONS * (sizes > 0))
        if share >= 1 or (len(ends) and ends[-1] >= limit):
            return np.sort(candidates[: np.searchsorted(ends, limit) + 1])
        share *= 2


def _blocks(documents: Documents) -> Iterator[Documents]:
    return (documents[at : at + _BLOCK_DOCUMENTS] for at in range(0, len(documents), _BLOCK_DOCUMENTS))
