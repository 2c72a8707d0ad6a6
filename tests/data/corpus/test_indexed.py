"""The .bin/.idx pair is Megatron's, both ways; a damaged one is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megatron_ettin.data.corpus.indexed import IndexedTokens, IndexedWriter, token_dtype
from megatron_ettin.errors import ConfigError
from tests.helpers.distributed import run_ranks

DOCUMENTS: list[list[list[int]]] = [[[5, 6, 7]], [[]], [[8], [9, 10]], [[65_000, 1]]]
"""Sequences of each document: one, an empty one, two, one with the largest ids."""


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
    assert [corpus.document(i).tolist() for i in range(corpus.num_documents)] == FLAT
    assert corpus.document_lengths.tolist() == [3, 0, 3, 2]


BULK = [[5, 6, 7], [], [], [8, 9, 10], [65_000]]


def write_documents_by_core(prefix: str) -> None:
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    for document in BULK:  # as Megatron-LM's preprocessing hands them over: no sequence for an empty document
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
    assert [corpus.document(i).tolist() for i in range(corpus.num_documents)] == BULK


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
    assert [corpus.document(i).tolist() for i in range(corpus.num_documents)] == whole


def test_empty_pair(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "c", np.int32):
        pass
    assert IndexedTokens(tmp_path / "c").num_documents == 0


def test_an_id_that_does_not_fit_is_no_silent_other_id(tmp_path: Path) -> None:
    def write_too_large() -> None:
        with IndexedWriter(tmp_path / "c", np.uint16) as writer:
            writer.add_document(np.array([65_536]))

    with pytest.raises(AssertionError):
        write_too_large()
    assert list(tmp_path.iterdir()) == []


def test_token_type_as_megatron() -> None:
    assert token_dtype(65_499) is np.uint16
    assert token_dtype(65_500) is np.int32


@pytest.mark.parametrize(
    ("suffix", "damage", "told"),
    [
        (".bin", lambda data: data[:-2], r"c\.bin has 14 bytes, its index says 16"),
        (".bin", lambda data: data + b"xx", r"c\.bin has 18 bytes, its index says 16"),
        (".idx", lambda data: data[:-8], r"c\.idx has \d+ bytes, its header says \d+: it was cut off"),
        (".idx", lambda data: b"NOTMINE" + data[7:], r"is no index"),
        (".idx", lambda data: data[:9] + b"\x07" + data[10:], r"has version 7"),
        (".idx", lambda data: data[:-8] + b"\x09" + data[-7:], r"document marks"),
        (".idx", lambda data: data[:34] + b"\xff" * 4 + data[38:], r"a sequence of negative length"),
        (".idx", lambda data: b"", r"is no index"),
    ],
)
def test_damage_is_refused(tmp_path: Path, suffix: str, damage: Callable[[bytes], bytes], told: str) -> None:
    write_by_us(tmp_path / "c", np.uint16)
    file = tmp_path / f"c{suffix}"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ConfigError, match=told):
        IndexedTokens(tmp_path / "c")


def test_missing_file_is_named(tmp_path: Path) -> None:
    write_by_us(tmp_path / "c", np.uint16)
    (tmp_path / "c.bin").unlink()
    with pytest.raises(ConfigError, match=r"there is no file .*c\.bin"):
        IndexedTokens(tmp_path / "c")


def test_nothing_stays_after_a_failure(tmp_path: Path) -> None:
    def fail_midway() -> None:
        with IndexedWriter(tmp_path / "c", np.uint16) as writer:
            writer.add_document([1, 2])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_midway()
    assert list(tmp_path.iterdir()) == []
