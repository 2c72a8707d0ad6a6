"""Corpora too large for memory, and the indices that are kept of them."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_ettin.data.corpus import mapped
from megatron_ettin.data.corpus.indexed import IndexedTokens, IndexedWriter
from megatron_ettin.data.corpus.manifest import Manifest
from megatron_ettin.data.corpus.mapped import MappedTokens, all_documents_closed, open_tokens
from megatron_ettin.data.index_cache import FACTS_FILE, IndexCache
from megatron_ettin.data.rows import RowDataset
from megatron_ettin.data.splits import SPLIT_NAMES, split_by_hash, split_corpus
from megatron_ettin.errors import ConfigError
from tests.helpers.corpora import write_corpus

SEP = 2


def write_sequences(prefix: Path, documents: list[list[int]]) -> str:
    """Write documents of several sequences each; a number is the length of a sequence."""
    with IndexedWriter(prefix, np.uint16) as writer:
        for sequences in documents:
            writer.add_document(*[np.arange(length) % 100 + 5 for length in sequences])
    return str(prefix)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.integers(1, 20), max_size=3), min_size=1, max_size=20), st.data())
def test_a_mapped_corpus_is_the_one_in_memory(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], data: st.DataObject
) -> None:
    prefix = write_sequences(tmp_path_factory.mktemp("mapped") / "c", documents)
    held, on_disk = IndexedTokens(prefix), MappedTokens(prefix)
    assert on_disk.num_documents == held.num_documents
    np.testing.assert_array_equal(on_disk.tokens, held.tokens)
    begin = data.draw(st.integers(0, len(documents)))
    end = data.draw(st.integers(begin, len(documents) + 1))
    np.testing.assert_array_equal(on_disk.document_starts[begin:end], held.document_starts[begin:end])
    some = np.array(data.draw(st.lists(st.integers(0, len(documents)), max_size=5)), dtype=np.int64)
    np.testing.assert_array_equal(on_disk.document_starts[some], held.document_starts[some])


def test_a_large_index_is_mapped_and_a_small_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = write_corpus(tmp_path / "c", [[7, 8]] * 10)
    assert isinstance(open_tokens(prefix), IndexedTokens)
    for limit, reached in (("LARGE_DOCUMENTS", 5), ("LARGE_BYTES", 39)):
        with monkeypatch.context() as patch:
            patch.setattr(mapped, limit, reached)
            assert isinstance(open_tokens(prefix), MappedTokens)
    monkeypatch.setattr(mapped, "LARGE_BYTES", 39)
    with (tmp_path / "c.bin").open("ab") as file:
        file.write(b"\0\0")
    with pytest.raises(ConfigError, match=r"c\.bin has 42 bytes, its index says 40"):
        open_tokens(prefix)
    with pytest.raises(ConfigError, match="there is no file"):
        open_tokens(tmp_path / "none")


@pytest.mark.parametrize(("ends", "told"), [([SEP, SEP], True), ([9, 9], False), ([SEP, 9], None)])
def test_whether_sep_closes_documents_is_told_by_some_of_them(
    tmp_path: Path, ends: list[int], told: bool | None
) -> None:
    documents = [[7, 8, ends[number % 2]] for number in range(50)]
    prefix = write_corpus(tmp_path / "c", documents)
    corpus = MappedTokens(prefix)
    assert all_documents_closed(corpus, prefix, SEP) is told
    rows = RowDataset(corpus, range(50), 32, sep_id=SEP, all_closed=lambda: told)
    contents = sorted(chunk.tokens.tolist() for row in range(rows.num_rows) for chunk in rows.stored_row(row))
    assert contents == sorted([token for token in document if token != SEP] for document in documents)


@pytest.mark.parametrize(
    ("documents", "said", "told"),
    [
        ([[7, 8]] * 5, True, True),
        ([[7, 8]] * 5, False, False),
        ([[7, SEP]] * 5, False, True),  # ready ids may be closed without the flag
        ([[7, 8]] * 5, None, None),  # merged of pairs with it and without
    ],
)
def test_a_manifest_tells_whether_sep_closes_documents(
    tmp_path: Path, documents: list[list[int]], said: bool | None, told: bool | None
) -> None:
    prefix = write_corpus(tmp_path / "c", documents)
    Manifest("", "", 10, "", {"--append-eod": said}, [], 0, "", []).save(prefix)
    assert all_documents_closed(MappedTokens(prefix), prefix, SEP) is told


def dataset(prefix: str, folder: Path, **settings: Any) -> RowDataset:
    cache = IndexCache.of_corpus(prefix, str(folder)).knowing(seq_length=64)
    return RowDataset(MappedTokens(prefix), range(40), 64, sep_id=SEP, seed=1, cache=cache, **settings)


def contents(rows: RowDataset) -> list[list[tuple[int, int, list[int]]]]:
    numbers = range(2 * rows.num_rows)
    return [[(p.document, p.index, p.tokens.tolist()) for p in rows.row(number)] for number in numbers]


class TestCache:
    @pytest.fixture
    def prefix(self, tmp_path: Path) -> str:
        rng = np.random.default_rng(0)
        return write_corpus(tmp_path / "c", [rng.integers(5, 90, length) for length in rng.integers(1, 200, 40)])

    def test_rows_are_those_built_anew(self, prefix: str, tmp_path: Path) -> None:
        plain = RowDataset(IndexedTokens(prefix), range(40), 64, sep_id=SEP, seed=1)
        first, again = dataset(prefix, tmp_path / "cache"), dataset(prefix, tmp_path / "cache")
        assert contents(first) == contents(again) == contents(plain)
        assert first.fill_rate == again.fill_rate == plain.fill_rate

    def test_the_next_start_cuts_and_packs_nothing(
        self, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("megatron_ettin.data.rows.LARGE_ORDER", 1)
        expected = contents(dataset(prefix, tmp_path / "cache"))

        def never(*arguments: Any, **more: Any) -> None:
            raise AssertionError

        for name in ("cut_documents", "pack_best_fit", "epoch_order"):
            monkeypatch.setattr(f"megatron_ettin.data.rows.{name}", never)
        assert contents(dataset(prefix, tmp_path / "cache")) == expected

    def test_the_orders_of_a_small_source_do_not_fill_the_disk(self, prefix: str, tmp_path: Path) -> None:
        rows = dataset(prefix, tmp_path / "cache")
        assert len({rows.row(50 * epoch * rows.num_rows)[0].document for epoch in range(20)}) > 5
        assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 1

    def test_an_interrupted_build_is_not_read(self, prefix: str, tmp_path: Path) -> None:
        folder = tmp_path / "cache"
        expected = contents(dataset(prefix, folder))
        for kept in [path for path in folder.iterdir() if path.is_dir()]:
            (kept / FACTS_FILE).unlink()
            array = next(kept.glob("*.npy"))
            array.write_bytes(array.read_bytes()[:100])
            kept.rename(folder / f".{kept.name}.99.part")
        assert contents(dataset(prefix, folder)) == expected
        assert not list(folder.glob(".*.part"))

    @pytest.mark.parametrize("name", ["lengths.npy", FACTS_FILE])
    def test_what_lost_its_content_is_built_anew(self, prefix: str, tmp_path: Path, name: str) -> None:
        folder = tmp_path / "cache"
        expected = contents(dataset(prefix, folder))
        [table] = [path.parent for path in folder.glob("*/lengths.npy")]
        (table / name).write_bytes(b"")
        assert contents(dataset(prefix, folder)) == expected
        assert (table / name).stat().st_size > 0

    def test_another_corpus_under_the_name_is_built_anew(self, prefix: str, tmp_path: Path) -> None:
        dataset(prefix, tmp_path / "cache")
        write_corpus(Path(prefix), [[33, 34, 35]] * 40)
        assert contents(dataset(prefix, tmp_path / "cache"))[0][0][2] == [33, 34, 35]

    def test_a_folder_that_cannot_be_written_is_done_without(self, prefix: str, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        assert dataset(prefix, tmp_path / "file" / "cache").num_rows

    def test_a_full_disk_is_done_without(self, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*arguments: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "save", full)
        assert dataset(prefix, tmp_path / "cache").num_rows
        assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]

    def test_processes_share_one_build(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context("spawn")
        with context.Pool(3) as pool:
            found = pool.map(_build_slowly, [str(tmp_path)] * 3)
        assert found == [42] * 3
        assert len((tmp_path / "builds").read_text().splitlines()) == 1


def _build_slowly(folder: str) -> int:
    def build() -> dict[str, np.ndarray]:
        with (Path(folder) / "builds").open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.5)
        return {"answer": np.array([42])}

    return int(IndexCache(Path(folder) / "cache", {"what": 1}).get(build)["answer"][0])


class TestSplitByHash:
    def test_shares_are_those_asked_for(self) -> None:
        parts = split_by_hash(100_000, "90,8,2", "books")
        assert sorted(np.concatenate(parts).tolist()) == list(range(100_000))
        for part, share in zip(parts, (0.9, 0.08, 0.02), strict=True):
            assert abs(len(part) - 100_000 * share) < 4 * (100_000 * share * (1 - share)) ** 0.5

    def test_a_document_stays_where_it_is_when_others_come(self) -> None:
        before, after = split_by_hash(1000, "90,8,2", "books"), split_by_hash(5000, "90,8,2", "books")
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(one, np.asarray(other)[np.asarray(other) < 1000])

    def test_corpora_are_split_each_in_its_own_way_wherever_they_lie(self) -> None:
        here, there = (split_corpus(1000, "90,10", "hash", f"{folder}/books") for folder in ("/a", "/b/c"))
        other = split_corpus(1000, "90,10", "hash", "/a/web")
        for name in SPLIT_NAMES:
            np.testing.assert_array_equal(here[name], there[name])
        assert not np.array_equal(here["validation"][:20], other["validation"][:20])

    def test_rows_hold_the_documents_of_the_split(self, tmp_path: Path) -> None:
        prefix = write_corpus(tmp_path / "c", [[number + 5] * 3 for number in range(60)])
        documents = split_corpus(60, "50,50", "hash", prefix)["training"]
        for corpus in (IndexedTokens(prefix), MappedTokens(prefix)):
            rows = RowDataset(corpus, documents, 16, sep_id=SEP)
            chunks = [chunk for row in range(rows.num_rows) for chunk in rows.stored_row(row)]
            assert sorted(chunk.document for chunk in chunks) == np.asarray(documents).tolist()
            assert all(chunk.tokens.tolist() == [chunk.document + 5] * 3 for chunk in chunks)
