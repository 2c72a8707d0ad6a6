"""From documents to rows: every token once, no row too long, the same order everywhere."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ettin.data.chunk_lengths import ChunkRule
from megatron_ettin.data.chunks import cut_documents
from megatron_ettin.data.corpus.indexed import IndexedTokens
from megatron_ettin.data.corpus.indexed_writer import IndexedWriter
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.corpus.train_tokenizer import save_tokenizer, train_tokenizer
from megatron_ettin.data.packing import RowTable, pack_best_fit
from megatron_ettin.data.preprocess.starter_text import module_documents
from megatron_ettin.data.rows import RowDataset, epoch_order, evaluation_rows
from tests.helpers.corpora import babble, numbered_documents, open_corpus

SEP = 2

lengths_of_documents = st.lists(st.integers(0, 40), min_size=1, max_size=30)


@given(lengths_of_documents, st.integers(3, 12), st.booleans())
def test_cutting_keeps_every_token_once(lengths: list[int], seq_length: int, closed: bool) -> None:
    corpus = open_corpus(numbered_documents(lengths, sep_id=SEP if closed else None))
    table = cut_documents(corpus, range(len(lengths)), seq_length, SEP)
    chunks = table.chunks(np.arange(len(table)), corpus)
    for number, content in enumerate(numbered_documents(lengths)):
        own = [chunk for chunk in chunks if chunk.document == number]
        assert [chunk.index for chunk in own] == list(range(len(own)))
        assert [token for chunk in own for token in chunk.tokens] == content
        assert [chunk.ends_document for chunk in own] == [False] * (len(own) - 1) + [True] * bool(own)
    assert all(0 < len(chunk.tokens) <= seq_length - 2 for chunk in chunks)


@given(st.lists(st.integers(1, 50), max_size=200))
def test_packing_places_every_chunk_once(sizes: list[int]) -> None:
    table = pack_best_fit(np.array(sizes, dtype=np.int64), 50)
    assert sorted(table.chunks.tolist()) == list(range(len(sizes)))
    filled = [sum(sizes[chunk] for chunk in row) for row in chunks_of_rows(table)]
    assert all(0 < positions <= 50 for positions in filled)
    # Two rows that are at most half full would have shared one.
    assert sum(positions <= 25 for positions in filled) <= 1


def chunks_of_rows(table: RowTable) -> list[list[int]]:
    """Return the chunk numbers of each row."""
    return [table.chunks[start:stop].tolist() for start, stop in pairwise(table.starts.tolist())]


def rows_of_best_fit_decreasing(sizes: list[int], row_size: int) -> list[int]:
    """Return the filled positions of each row, by the textbook algorithm."""
    rows: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [filled for filled in rows if filled + size <= row_size]
        if fitting:
            rows.remove(max(fitting))
        rows.append(max(fitting, default=0) + size)
    return sorted(rows)


@given(st.lists(st.integers(1, 50), max_size=200))
def test_packing_is_best_fit_decreasing(sizes: list[int]) -> None:
    table = pack_best_fit(np.array(sizes, dtype=np.int64), 50)
    filled = [sum(sizes[chunk] for chunk in row) for row in chunks_of_rows(table)]
    assert sorted(filled) == rows_of_best_fit_decreasing(sizes, 50)


def test_packing_is_deterministic_and_mixes_the_corpus() -> None:
    sizes = np.full(1000, 10, dtype=np.int64)
    table, again = pack_best_fit(sizes, 50), pack_best_fit(sizes, 50)
    np.testing.assert_array_equal(table.chunks, again.chunks)
    np.testing.assert_array_equal(table.starts, again.starts)
    spans = [np.ptp(row) for row in chunks_of_rows(table)]
    assert np.mean(spans) > 500, "five chunks drawn from 1000 span 667 on average"


def test_a_million_chunks_are_packed_in_seconds() -> None:
    sizes = np.random.default_rng(0).integers(3, 1025, 1_000_000)
    start = time.process_time()
    table = pack_best_fit(sizes, 1024)
    assert time.process_time() - start < 8, "about half a second on an idle core"
    assert sizes.sum() / (len(table) * 1024) > 0.995
    assert np.array_equal(np.sort(table.chunks), np.arange(len(sizes)))
    assert np.add.reduceat(sizes[table.chunks], table.starts[:-1]).max() <= 1024


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> IndexedTokens:
    """Sources and docstrings of a part of the standard library, with a tokenizer trained on them."""
    folder = tmp_path_factory.mktemp("library")
    package = Path(json.__file__).parents[1]
    files = sorted(package.glob("*.py"))[::4]
    texts = [d.text for file in files for d in module_documents(file.read_text(encoding="utf-8"), file.name)]
    save_tokenizer(train_tokenizer(texts, 1024), folder)
    ids = TokenizerFiles.load(folder).encode_batch(texts)
    with IndexedWriter(folder / "c", np.uint16) as writer:
        for document in ids:
            writer.add_document(document)
    return IndexedTokens(folder / "c")


@pytest.mark.parametrize("seq_length", [512, 1024])
def test_rows_of_real_text_are_full(library: IndexedTokens, seq_length: int) -> None:
    rows = RowDataset(library, range(library.num_documents), seq_length, sep_id=SEP)
    positions = [sum(len(chunk.tokens) + 2 for chunk in rows.row(sample)) for sample in range(rows.num_rows)]
    assert max(positions) <= seq_length
    assert rows.fill_rate == pytest.approx(sum(positions) / (len(positions) * seq_length))
    assert rows.fill_rate >= 0.98


def test_the_published_chunks_of_real_text_drop_few_tokens_and_fill_rows(library: IndexedTokens) -> None:
    rows = RowDataset(library, range(library.num_documents), 1024, sep_id=SEP, rule=ChunkRule(1024, 512, 128))
    assert 0 < rows.dropped.share < 0.01
    assert rows.fill_rate >= 0.98


def test_every_epoch_has_every_chunk_once_in_a_new_order() -> None:
    documents = [document.tolist() for document in babble(60, 500)]
    dataset = RowDataset(open_corpus(documents), range(10, 60), 32, sep_id=SEP, seed=5)
    epochs = []
    for epoch in range(2):
        samples = range(epoch * dataset.num_rows, (epoch + 1) * dataset.num_rows)
        epochs.append([(p.document, p.index) for sample in samples for p in dataset.row(sample)])
    expected = [(d, i) for d in range(10, 60) for i in range(-(-len(documents[d]) // 30))]
    assert sorted(epochs[0]) == sorted(epochs[1]) == expected
    assert epochs[0] != epochs[1]
    again = RowDataset(open_corpus(documents), range(10, 60), 32, sep_id=SEP, seed=5)
    # Out of order, like a resume in the second epoch.
    for sample in (dataset.num_rows + 3, 2, dataset.num_rows):
        ours, theirs = again.row(sample), dataset.row(sample)
        assert [(p.document, p.index) for p in ours] == [(p.document, p.index) for p in theirs]


def test_order_depends_on_seed_and_epoch() -> None:
    orders = [tuple(epoch_order(50, seed, epoch)) for seed in (1, 2) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_evaluation_has_every_chunk_once() -> None:
    documents = numbered_documents([3, 0, 70, 31, 1])
    rows = evaluation_rows(open_corpus(documents), range(1, 5), 32, sep_id=SEP)
    tokens = sorted(token for row in rows for chunk in row for token in chunk.tokens)
    assert tokens == sorted(token for document in documents[1:] for token in document)
    assert len(list(rows)) == len(rows)


def test_without_packing_every_chunk_has_a_row() -> None:
    documents = numbered_documents([3, 0, 70, 31, 1])
    rows = RowDataset(open_corpus(documents), range(5), 32, sep_id=SEP, seed=3, packing="none")
    chunks = [rows.row(sample) for sample in range(rows.num_rows)]
    assert [len(row) for row in chunks] == [1] * 7
    assert sorted((chunk.document, chunk.index) for (chunk,) in chunks) == [
        (0, 0), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (4, 0)
    ]  # fmt: skip
