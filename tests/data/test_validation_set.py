"""The documents of a limited validation: a fixed sample of whole documents, as long as those of the split."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from megatron_ettin.data import validation_set
from megatron_ettin.data.corpus.indexed import IndexedTokens
from megatron_ettin.data.rows import EvaluationRows, evaluation_rows
from megatron_ettin.data.splits import Documents
from megatron_ettin.data.validation_set import ValidationSet, sample_documents, share_limit, stored_tokens
from tests.helpers.corpora import numbered_documents, open_corpus

SEP = 2


def mixed_lengths(num_documents: int, seed: int = 0) -> list[int]:
    """Lengths from 0 to some hundred, most of them short."""
    return np.random.default_rng(seed).exponential(60, num_documents).astype(int).tolist()


def corpus_of(lengths: Sequence[int], *, sep_id: int | None = None) -> IndexedTokens:
    return open_corpus([[5] * length + ([] if sep_id is None or not length else [sep_id]) for length in lengths])


def rows_of(corpus: IndexedTokens, documents: Documents, seq_length: int) -> EvaluationRows:
    return evaluation_rows(corpus, documents, seq_length, sep_id=SEP)


def by_hand(lengths: Sequence[int], documents: Sequence[int], limit: int) -> list[int]:
    """SplitMix64 over the documents' numbers in Python's integers, then whole documents until the limit."""
    mask, start = 2**64 - 1, int.from_bytes(hashlib.sha256(b"validation").digest()[:8], "little")

    def key(document: int) -> int:
        z = (start + (document + 1) * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return (z ^ (z >> 31)) >> 11

    chosen, tokens = [], 0
    for document in sorted(documents, key=key):
        if tokens >= limit:
            break
        chosen.append(document)
        tokens += lengths[document] + 2 if lengths[document] else 0
    return sorted(chosen)


@pytest.mark.parametrize("sep_id", [None, SEP])
@pytest.mark.parametrize("limit", [1, 100, 5000, 30_000, 10**9])
def test_sample_equals_one_by_hand(limit: int, sep_id: int | None) -> None:
    lengths = mixed_lengths(900)
    corpus = corpus_of(lengths, sep_id=sep_id)
    for documents in (range(200, 900), np.arange(1, 900, 7)):
        sample = sample_documents(corpus, documents, SEP, limit)
        assert list(sample) == by_hand(lengths, [int(document) for document in documents], limit)


def test_sample_does_not_depend_on_how_many_documents_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = corpus_of(mixed_lengths(900))
    expected = list(sample_documents(corpus, range(900), SEP, 8000))
    monkeypatch.setattr(validation_set, "_BLOCK_DOCUMENTS", 13)
    # Bounds that are too small at first: too few candidates, or none.
    for margin in (1e-6, 0.5, 3.0):
        monkeypatch.setattr(validation_set, "_MARGIN", margin)
        assert list(sample_documents(corpus, range(900), SEP, 8000)) == expected


def test_a_larger_sample_contains_a_smaller_one() -> None:
    corpus = corpus_of(mixed_lengths(900))
    samples = [set(sample_documents(corpus, range(900), SEP, limit)) for limit in (1000, 4000, 16_000, 10**9)]
    assert all(small < large for small, large in pairwise(samples))
    assert samples[-1] == set(range(900))


def test_documents_are_as_long_as_those_of_the_split() -> None:
    """The mean length within 4 standard errors, and the shares of short and long documents."""
    lengths = np.array(mixed_lengths(40_000))
    sample = sample_documents(corpus_of(lengths.tolist()), range(len(lengths)), SEP, 300_000)
    drawn = lengths[np.asarray(sample)]
    assert drawn.sum() + 2 * len(drawn) == pytest.approx(300_000, rel=0.01)
    assert abs(drawn.mean() - lengths.mean()) < 4 * lengths.std() / len(drawn) ** 0.5
    for quantile in (0.1, 0.5, 0.9, 0.99):
        share = np.mean(drawn <= np.quantile(lengths, quantile))
        expected = np.mean(lengths <= np.quantile(lengths, quantile))
        assert abs(share - expected) < 4 * (expected * (1 - expected) / len(drawn)) ** 0.5


def test_token_mean_of_samples_is_that_of_the_split() -> None:
    """Over 60 corpora, the mean of a figure that grows with a document's length; the first rows are far off."""
    errors, errors_of_first_rows = [], []
    for seed in range(60):
        lengths = np.array(mixed_lengths(500, seed))
        figure, weight = np.log1p(lengths.astype(np.float64)), lengths + 2.0
        mean = np.average(figure, weights=weight)
        corpus = corpus_of(lengths.tolist())
        sample = np.asarray(sample_documents(corpus, range(500), SEP, 6000))
        errors.append(np.average(figure[sample], weights=weight[sample]) - mean)
        rows = rows_of(corpus, range(500), 64)
        first = [rows[number] for number in range(6000 // 64)]
        chunks = [(len(chunk.tokens), figure[chunk.document]) for row in first for chunk in row]
        tokens, values = np.array(chunks).T
        errors_of_first_rows.append(np.average(values, weights=tokens + 2) - mean)
    spread = np.std(errors) / len(errors) ** 0.5
    assert abs(np.mean(errors)) < 4 * spread
    assert abs(np.mean(errors_of_first_rows)) > 10 * spread


def test_rows_of_a_sample_contain_all_of_its_documents() -> None:
    lengths = mixed_lengths(300)
    corpus = open_corpus(numbered_documents(lengths, sep_id=SEP))
    sample = sample_documents(corpus, range(100, 300), SEP, 4000)
    sizes = {
        length: ValidationSet.of_sources([rows_of(corpus, sample, length).documents()]) for length in (16, 64, 300)
    }
    assert len(set(sizes.values())) == 1, "the set does not depend on the row length"
    described = sizes[64]
    filled = [document for document in sample if lengths[document]]
    assert {chunk.document for row in rows_of(corpus, sample, 64) for chunk in row} == set(filled)
    assert described.documents == len(filled)
    assert described.tokens == sum(lengths[document] + 2 for document in filled)
    pairs = b"".join(struct.pack("<qq", document, lengths[document]) for document in filled)
    assert described.digest == hashlib.sha256(hashlib.sha256(pairs).digest()).hexdigest()[:16]


def test_hash_of_a_set_depends_on_documents_and_lengths_but_not_on_the_order_of_sources() -> None:
    one, other = np.array([3, 5]), np.array([4])
    first, second = (one, np.array([10, 20])), (other, np.array([7]))
    digest = ValidationSet.of_sources([first, second]).digest
    assert digest == ValidationSet.of_sources([second, first]).digest
    assert digest == ValidationSet.of_sources([(range(3, 6), np.array([10, 0, 20])), second]).digest
    assert digest != ValidationSet.of_sources([first]).digest
    assert digest != ValidationSet.of_sources([(one, np.array([10, 21])), second]).digest
    assert digest != ValidationSet.of_sources([(np.array([3, 6]), np.array([10, 20])), second]).digest


def test_limit_is_shared_in_proportion_to_the_splits() -> None:
    corpora = [corpus_of([10] * count) for count in (100, 10, 1, 0)]
    sizes = [stored_tokens(corpus, range(corpus.num_documents)) for corpus in corpora]
    assert sizes == [1200, 120, 12, 0]
    assert share_limit(133, sizes) == [120, 12, 2, 0]
    samples = [
        sample_documents(corpus, range(corpus.num_documents), SEP, limit)
        for corpus, limit in zip(corpora, share_limit(133, sizes), strict=True)
    ]
    assert [len(sample) for sample in samples] == [10, 1, 1, 0]
