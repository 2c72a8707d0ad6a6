"""The .bin/.idx pair against megatron-core, in both directions, and damaged pairs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_ettin.data.corpus import indexed
from megatron_ettin.data.corpus.indexed import IndexedTokens, all_documents_closed
from megatron_ettin.data.corpus.indexed_writer import IndexedWriter, token_dtype
from megatron_ettin.data.corpus.manifest import Manifest
from megatron_ettin.data.rows import RowDataset
from megatron_ettin.errors import ConfigError
from tests.helpers.corpora import read_documents, write_corpus
from tests.helpers.distributed import run_ranks

SEP = 2
DOCUMENTS: list[list[list[int]]] = [[[5, 6, 7]], [[]], [[8], [9, 10]], [[65_000, 1]]]
"""Sequences of each document: one, an empty one, two, and one with large ids."""


def write_by_core(prefix: str, dtype: type[np.integer]) -> None:
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for sequences in DOCUMENTS:
        for sequence in sequences:
            builder.add_item(torch.tensor(sequence, dtype=torch.int64))
        builder.end_document()
    builder.finalize(f"{prefix}.idx")


def read_by_core(prefix: str) -> list[list[int]]:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    dataset = IndexedDataset(prefix)
    bounds = dataset.document_indices
    return [
        np.concatenate([dataset[i] for i in range(first, last)]).tolist() for first, last in itertools.pairwise(bounds)
    ]


def write_by_us(prefix: Path, dtype: type[np.integer]) -> None:
    with IndexedWriter(prefix, dtype) as writer:
        for sequences in DOCUMENTS:
            writer.add_document(*[np.array(sequence, dtype=np.int64) for sequence in sequences])


FLAT = [[token for sequence in sequences for token in sequence] for sequences in DOCUMENTS]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_same_bytes_as_megatron_core(tmp_path: Path, dtype: type[np.integer]) -> None:
    run_ranks(1, write_by_core, str(tmp_path / "core"), dtype)
    write_by_us(tmp_path / "ours", dtype)
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"ours{suffix}").read_bytes() == (tmp_path / f"core{suffix}").read_bytes()
    assert run_ranks(1, read_by_core, str(tmp_path / "ours"))[0] == FLAT
    corpus = IndexedTokens(tmp_path / "core")
    assert read_documents(corpus) == FLAT
    assert np.diff(corpus.document_starts[:]).tolist() == [3, 0, 3, 2]


BULK = [[5, 6, 7], [], [], [8, 9, 10], [65_000]]


def write_documents_by_core(prefix: str) -> None:
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    for document in BULK:  # like Megatron-LM's preprocessing: no sequence for an empty document
        builder.add_document(torch.tensor(document, dtype=torch.int64), [len(document)] if document else [])
    builder.finalize(f"{prefix}.idx")


@pytest.mark.parametrize("split_at", [0, 2, 5])
def test_many_documents_at_once_are_the_same_bytes(tmp_path: Path, split_at: int) -> None:
    run_ranks(1, write_documents_by_core, str(tmp_path / "core"))
    with IndexedWriter(tmp_path / "ours", np.uint16) as writer:
        for documents in (BULK[:split_at], BULK[split_at:]):
            ids = np.array([token for document in documents for token in document], dtype=np.int64)
            writer.add_documents(ids, np.array([len(document) for document in documents], dtype=np.int64))
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"ours{suffix}").read_bytes() == (tmp_path / f"core{suffix}").read_bytes()
    corpus = IndexedTokens(tmp_path / "ours")
    assert read_documents(corpus) == BULK


SENTENCES = [[[5, 6], [7]], [], [[8]], [[9], [10, 11], [12]]]


def write_sentences_by_core(prefix: str) -> None:
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    for document in SENTENCES:
        tokens = [token for sentence in document for token in sentence]
        builder.add_document(torch.tensor(tokens, dtype=torch.int64), [len(sentence) for sentence in document])
    builder.finalize(f"{prefix}.idx")


def test_sentences_are_the_same_bytes(tmp_path: Path) -> None:
    run_ranks(1, write_sentences_by_core, str(tmp_path / "core"))
    flat = [sentence for document in SENTENCES for sentence in document]
    with IndexedWriter(tmp_path / "ours", np.uint16) as writer:
        lengths = np.array([len(sentence) for sentence in flat])
        writer.add_documents(np.concatenate(flat), lengths, np.array([len(document) for document in SENTENCES]))
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"ours{suffix}").read_bytes() == (tmp_path / f"core{suffix}").read_bytes()
    whole = [[token for sentence in document for token in sentence] for document in SENTENCES]
    corpus = IndexedTokens(tmp_path / "core")
    assert read_documents(corpus) == whole


def test_empty_pair(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "c", np.int32):
        pass
    assert IndexedTokens(tmp_path / "c").num_documents == 0


def test_an_id_beyond_the_token_type_is_refused(tmp_path: Path) -> None:
    def write_too_large() -> None:
        with IndexedWriter(tmp_path / "c", np.uint16) as writer:
            writer.add_document(np.array([65_536]))

    with pytest.raises(AssertionError):
        write_too_large()
    assert list(tmp_path.iterdir()) == []


def test_token_type_is_megatrons() -> None:
    assert token_dtype(65_499) is np.uint16
    assert token_dtype(65_500) is np.int32


@pytest.mark.parametrize(
    ("suffix", "damage", "message"),
    [
        (".bin", lambda data: data[:-2], r"c\.bin has 14 bytes, its index says 16"),
        (".bin", lambda data: data + b"xx", r"c\.bin has 18 bytes, its index says 16"),
        (".idx", lambda data: data[:-8], r"c\.idx has \d+ bytes, its header says \d+: it is cut off"),
        (".idx", lambda data: b"NOTMINE" + data[7:], r"is not an index"),
        (".idx", lambda data: data[:9] + b"\x07" + data[10:], r"has version 7"),
        (".idx", lambda data: data[:-8] + b"\x09" + data[-7:], r"document marks"),
        (".idx", lambda data: data[:34] + b"\xff" * 4 + data[38:], r"a sequence of negative length"),
        (".idx", lambda data: b"", r"is not an index"),
    ],
)
def test_damage_is_refused(tmp_path: Path, suffix: str, damage: Callable[[bytes], bytes], message: str) -> None:
    write_by_us(tmp_path / "c", np.uint16)
    file = tmp_path / f"c{suffix}"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ConfigError, match=message):
        IndexedTokens(tmp_path / "c")


def test_missing_file_is_named(tmp_path: Path) -> None:
    write_by_us(tmp_path / "c", np.uint16)
    (tmp_path / "c.bin").unlink()
    with pytest.raises(ConfigError, match=r"there is no file .*c\.bin"):
        IndexedTokens(tmp_path / "c")


def test_a_failed_writer_leaves_no_files(tmp_path: Path) -> None:
    def fail_midway() -> None:
        with IndexedWriter(tmp_path / "c", np.uint16) as writer:
            writer.add_document([1, 2])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_midway()
    assert list(tmp_path.iterdir()) == []


def write_sequences(prefix: Path, documents: list[list[int]]) -> str:
    """Write documents of several sequences each, given by their lengths."""
    with IndexedWriter(prefix, np.uint16) as writer:
        for lengths in documents:
            writer.add_document(*[np.arange(length) % 100 + 5 for length in lengths])
    return str(prefix)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.integers(1, 20), max_size=3), min_size=1, max_size=20), st.booleans(), st.data())
def test_any_slice_and_any_documents_are_read(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], is_large: bool, data: st.DataObject
) -> None:
    prefix = write_sequences(tmp_path_factory.mktemp("mapped") / "c", documents)
    with patch.object(indexed, "LARGE_DOCUMENTS", 0 if is_large else 100):
        corpus = IndexedTokens(prefix)
    assert corpus.is_large is is_large
    assert corpus.num_documents == len(documents)
    tokens = [token % 100 + 5 for lengths in documents for length in lengths for token in range(length)]
    starts = np.cumsum([0, *map(sum, documents)])
    np.testing.assert_array_equal(corpus.tokens, tokens)
    first = data.draw(st.integers(0, len(documents)))
    last = data.draw(st.integers(first, len(documents) + 1))
    np.testing.assert_array_equal(corpus.document_starts[first:last], starts[first:last])
    some = np.array(data.draw(st.lists(st.integers(0, len(documents)), max_size=5)), dtype=np.int64)
    np.testing.assert_array_equal(corpus.document_starts[some], starts[some])
    start, stop = int(starts[first]), int(starts[min(last, len(documents))])
    np.testing.assert_array_equal(corpus.read(start, stop), tokens[start:stop])


def test_size_makes_a_corpus_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = write_corpus(tmp_path / "c", [[7, 8]] * 10)
    assert not IndexedTokens(prefix).is_large
    for limit, reached in (("LARGE_DOCUMENTS", 5), ("LARGE_BYTES", 39)):
        with monkeypatch.context() as context:
            context.setattr(indexed, limit, reached)
            assert IndexedTokens(prefix).is_large
    monkeypatch.setattr(indexed, "LARGE_BYTES", 39)
    with (tmp_path / "c.bin").open("ab") as file:
        file.write(b"\0\0")
    with pytest.raises(ConfigError, match=r"c\.bin has 42 bytes, its index says 40"):
        IndexedTokens(prefix)
    with pytest.raises(ConfigError, match="there is no file"):
        IndexedTokens(tmp_path / "none")


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (-16, r"document marks that do not ascend"),  # the last but one mark
        (34 + 4 * 4 + 8, r"a sequence of negative length"),  # the second pointer
    ],
)
def test_damage_of_a_large_index_is_found_when_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: int, message: str
) -> None:
    monkeypatch.setattr(indexed, "LARGE_DOCUMENTS", 0)
    prefix = write_corpus(tmp_path / "c", [[7, 8]] * 4)
    index = bytearray((tmp_path / "c.idx").read_bytes())
    index[damaged % len(index)] = 99
    (tmp_path / "c.idx").write_bytes(index)
    corpus = IndexedTokens(prefix)
    with pytest.raises(ConfigError, match=message):
        corpus.document_starts[:]


class TestClosedDocuments:
    """Whether the documents of a large corpus end with [SEP]."""

    @pytest.fixture(autouse=True)
    def every_corpus_is_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(indexed, "LARGE_DOCUMENTS", 0)

    @pytest.mark.parametrize(("ends", "expected"), [([SEP, SEP], True), ([9, 9], False), ([SEP, 9], None)])
    def test_a_sample_of_documents_decides(self, tmp_path: Path, ends: list[int], expected: bool | None) -> None:
        documents = [[7, 8, ends[number % 2]] for number in range(50)]
        prefix = write_corpus(tmp_path / "c", documents)
        corpus = IndexedTokens(prefix)
        assert all_documents_closed(corpus, prefix, SEP) is expected
        rows = RowDataset(corpus, range(50), 32, sep_id=SEP, all_closed=lambda: expected)
        contents = sorted(chunk.tokens.tolist() for row in range(rows.num_rows) for chunk in rows.stored_row(row))
        assert contents == sorted([token for token in document if token != SEP] for document in documents)

    @pytest.mark.parametrize(
        ("documents", "stated", "expected"),
        [
            ([[7, 8]] * 5, True, True),
            ([[7, 8]] * 5, False, False),
            ([[7, SEP]] * 5, False, True),  # token ids from elsewhere may be closed without the flag
            ([[7, 8]] * 5, None, None),  # merged from pairs with it and without
        ],
    )
    def test_the_manifest_decides_first(
        self, tmp_path: Path, documents: list[list[int]], stated: bool | None, expected: bool | None
    ) -> None:
        prefix = write_corpus(tmp_path / "c", documents)
        Manifest("", "", 10, "", {"--append-eod": stated}, [], 0, "", []).save(prefix)
        assert all_documents_closed(IndexedTokens(prefix), prefix, SEP) is expected
