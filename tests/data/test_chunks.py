"""Chunks of long documents: no token twice, none across documents, short ends filled up or dropped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_ettin.data.chunk_lengths import ChunkRule
from megatron_ettin.data.chunks import ChunkTable, cut_documents
from megatron_ettin.data.corpus.indexed import IndexedTokens
from megatron_ettin.data.rows import RowDataset
from tests.helpers.corpora import numbered_documents, open_corpus

SEP = 2

lengths_of_documents = st.lists(st.integers(0, 300), min_size=1, max_size=25)


def chunks_of(table: ChunkTable, corpus: IndexedTokens) -> list[list[list[int]]]:
    """Return the tokens of each chunk of each document."""
    tokens: list[list[list[int]]] = [[] for _ in range(corpus.num_documents)]
    for chunk in table.chunks(np.arange(len(table)), corpus):
        tokens[chunk.document].append(chunk.tokens.tolist())
    return tokens


def check_chunks(documents: list[list[int]], chunks_of_documents: list[list[list[int]]], rule: ChunkRule) -> int:
    """Check the invariants of chunking, and return the number of dropped tokens."""
    content, least, skipped = rule.size - 2, max(0, rule.min_size - 2), max(0, rule.skip_size - 2)
    dropped = 0
    for document, chunks in zip(documents, chunks_of_documents, strict=True):
        joined = [token for chunk in chunks for token in chunk]
        lost = len(document) - len(joined)
        assert joined == document[: len(joined)], "in order, without duplicates or tokens of other documents"
        assert lost == 0 or (0 < lost < skipped and chunks), "only a short end is dropped, never a document"
        assert all(0 < len(chunk) <= content for chunk in chunks)
        assert all(len(chunk) >= least for chunk in chunks) or len(chunks) == 1
        dropped += lost
    return dropped


@settings(deadline=None)
@given(lengths_of_documents, st.integers(8, 60), st.data())
def test_chunks_of_any_documents(lengths: list[int], size: int, data: st.DataObject) -> None:
    rule = ChunkRule(size, data.draw(st.integers(0, size // 2)), data.draw(st.integers(0, size)))
    documents = numbered_documents(lengths)
    corpus = open_corpus(documents)
    table = cut_documents(corpus, range(len(lengths)), 64, SEP, rule)
    dropped = check_chunks(documents, chunks_of(table, corpus), rule)
    assert (table.dropped.tokens, table.dropped.of_tokens) == (dropped, sum(lengths))
    assert bool(table.dropped.chunks) == bool(dropped)


def test_chunks_of_the_recipe() -> None:
    rule = ChunkRule(1024, 512, 128)
    content = 1022
    lengths = [100, 1022, 1022 + 125, 1022 + 126, 1022 + 509, 1022 + 510, 2 * 1022 + 300]
    corpus = open_corpus(numbered_documents(lengths))
    cut = [
        [len(chunk) for chunk in chunks]
        for chunks in chunks_of(cut_documents(corpus, range(7), 1024, SEP, rule), corpus)
    ]
    assert cut[:3] == [[100], [content], [content]], "a first chunk is always kept, an end of 125 is dropped"
    assert sum(cut[3]) == content + 126
    assert min(cut[3]) >= 510, "both have the minimum size after tokens were moved"
    assert cut[5] == [content, 510]
    assert cut[6][0] == content
    assert sum(cut[6]) == 2 * content + 300


def test_moved_tokens_depend_on_the_document_alone() -> None:
    rule = ChunkRule(64, 30, 0)
    corpus = open_corpus(numbered_documents([62 + 5] * 300))
    moved = [cut_documents(corpus, range(300), 64, SEP, rule).lengths[1::2].tolist() for _ in range(2)]
    assert moved[0] == moved[1]
    assert set(moved[0]) == set(range(28, 40)), "the second chunk has 28 to 39 tokens, and the first at least 28"
    # A part of the corpus is cut like the whole corpus.
    part = cut_documents(corpus, range(100, 300), 64, SEP, rule)
    assert part.lengths[1::2].tolist() == moved[0][100:]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(10, 30), max_size=200), min_size=1, max_size=8), st.integers(8, 40), st.data())
def test_cuts_at_sentence_ends(documents: list[list[int]], size: int, data: st.DataObject) -> None:
    ends = np.zeros(31, dtype=bool)
    ends[[11, 17, 23]] = True
    rule = ChunkRule(size, data.draw(st.integers(0, size // 4)), 0, ends)
    corpus = open_corpus(documents)
    chunks_of_documents = chunks_of(cut_documents(corpus, range(len(documents)), 64, SEP, rule), corpus)
    for document, chunks in zip(documents, chunks_of_documents, strict=True):
        assert [token for chunk in chunks for token in chunk] == document
        assert all(0 < len(chunk) <= size - 2 for chunk in chunks)
        if rule.min_size == 0:
            for chunk, start in zip(chunks[:-1], np.cumsum([0, *map(len, chunks)]), strict=False):
                window = document[start : start + size - 2]
                second_half = [
                    place for place, token in enumerate(window, 1) if ends[token] and place > len(window) // 2
                ]
                assert len(chunk) == (second_half[-1] if second_half else size - 2)


@pytest.mark.parametrize("at_sentences", [False, True])
def test_a_chunk_before_a_dropped_remainder_does_not_end_its_document(at_sentences: bool) -> None:
    """Chunks of 8 tokens; remainders below 4 are dropped. A decoder must not learn that such a document ends there."""
    ends = np.zeros(16, bool) if at_sentences else None
    corpus = open_corpus([*([7] * length + [SEP] for length in (16, 18, 21, 3, 0, 8, 9))])
    ends_document = [False, True, False, False, False, False, True, True, True, False]
    is_last = [False, True, False, True, False, False, True, True, True, True]
    for close_shortened, expected in ((False, ends_document), (True, is_last)):
        rule = ChunkRule(10, 0, 6, ends, close_shortened=close_shortened)
        table = cut_documents(corpus, range(7), 10, SEP, rule)
        numbers = np.arange(len(table))
        assert [chunk.ends_document for chunk in table.chunks(numbers, corpus)] == expected
        assert table.ends_document(numbers).tolist() == expected


def test_the_published_chunks_drop_few_tokens() -> None:
    lengths = np.random.default_rng(0).lognormal(6, 1, 3000).astype(int).clip(1)
    corpus = open_corpus([[7] * length for length in lengths])
    rows = RowDataset(corpus, range(3000), 1024, sep_id=SEP, rule=ChunkRule(1024, 512, 128), packing="none")
    assert 0 < rows.dropped.share < 0.01
    assert rows.dropped.of_tokens == lengths.sum()


@pytest.mark.parametrize("packing", ["best-fit", "none"])
def test_row_tokens_equal_the_tokens_of_batches(packing: str) -> None:
    documents = numbered_documents([3, 0, 70, 31, 1, 200])
    rows = RowDataset(open_corpus(documents), range(6), 32, sep_id=SEP, seed=3, packing=packing)
    numbers = np.arange(rows.num_rows)
    stored = rows.stored_rows(numbers)
    encoder = [sum(len(chunk.tokens) + 2 for chunk in row) for row in stored]
    decoder = [sum(len(chunk.tokens) + 1 + chunk.ends_document for chunk in row) for row in stored]
    assert rows.row_tokens(numbers, close_every_chunk=True).tolist() == encoder
    assert rows.row_tokens(numbers, close_every_chunk=False).tolist() == decoder
    place = rows.num_rows + 3
    trained = [len(chunk.tokens) + 2 for number in range(place) for chunk in rows.row(number)]
    assert rows.tokens_before(place, close_every_chunk=True) == sum(trained)
