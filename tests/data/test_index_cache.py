"""The index cache: built once, shared by processes, and never read incomplete."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ettin.data.corpus.indexed import IndexedTokens
from megatron_ettin.data.index_cache import FACTS_FILE, IndexCache
from megatron_ettin.data.rows import RowDataset
from tests.helpers.corpora import write_corpus

SEP = 2


def dataset(prefix: str, folder: Path, **settings: Any) -> RowDataset:
    cache = IndexCache.of_corpus(prefix, str(folder)).with_facts(seq_length=64)
    return RowDataset(IndexedTokens(prefix), range(40), 64, sep_id=SEP, seed=1, cache=cache, **settings)


def contents(rows: RowDataset) -> list[list[tuple[int, int, list[int]]]]:
    numbers = range(2 * rows.num_rows)
    return [[(p.document, p.index, p.tokens.tolist()) for p in rows.row(number)] for number in numbers]


class TestIndexCache:
    @pytest.fixture
    def prefix(self, tmp_path: Path) -> str:
        rng = np.random.default_rng(0)
        return write_corpus(tmp_path / "c", [rng.integers(5, 90, length) for length in rng.integers(1, 200, 40)])

    def test_cached_rows_equal_built_ones(self, prefix: str, tmp_path: Path) -> None:
        plain = RowDataset(IndexedTokens(prefix), range(40), 64, sep_id=SEP, seed=1)
        first, again = dataset(prefix, tmp_path / "cache"), dataset(prefix, tmp_path / "cache")
        assert contents(first) == contents(again) == contents(plain)
        assert first.fill_rate == again.fill_rate == plain.fill_rate

    def test_the_next_start_builds_nothing(self, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("megatron_ettin.data.rows.LARGE_ORDER", 1)
        expected = contents(dataset(prefix, tmp_path / "cache"))

        def never(*arguments: Any, **more: Any) -> None:
            raise AssertionError

        for name in ("cut_documents", "pack_best_fit", "epoch_order"):
            monkeypatch.setattr(f"megatron_ettin.data.rows.{name}", never)
        assert contents(dataset(prefix, tmp_path / "cache")) == expected

    def test_orders_of_a_small_source_are_not_cached(self, prefix: str, tmp_path: Path) -> None:
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
    def test_a_file_without_content_is_rebuilt(self, prefix: str, tmp_path: Path, name: str) -> None:
        folder = tmp_path / "cache"
        expected = contents(dataset(prefix, folder))
        [table] = [path.parent for path in folder.glob("*/lengths.npy")]
        (table / name).write_bytes(b"")
        assert contents(dataset(prefix, folder)) == expected
        assert (table / name).stat().st_size > 0

    def test_a_replaced_corpus_is_rebuilt(self, prefix: str, tmp_path: Path) -> None:
        dataset(prefix, tmp_path / "cache")
        write_corpus(Path(prefix), [[33, 34, 35]] * 40)
        assert contents(dataset(prefix, tmp_path / "cache"))[0][0][2] == [33, 34, 35]

    def test_an_unwritable_folder_is_skipped(self, prefix: str, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        assert dataset(prefix, tmp_path / "file" / "cache").num_rows

    def test_a_full_disk_is_tolerated(self, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*arguments: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "save", full)
        assert dataset(prefix, tmp_path / "cache").num_rows
        assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]

    def test_processes_share_one_build(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context("spawn")
        with context.Pool(3) as pool:
            results = pool.map(_build_slowly, [str(tmp_path)] * 3)
        assert results == [42] * 3
        assert len((tmp_path / "builds").read_text().splitlines()) == 1


def _build_slowly(folder: str) -> int:
    def build() -> dict[str, np.ndarray]:
        with (Path(folder) / "builds").open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.5)
        return {"answer": np.array([42])}

    return int(IndexCache(Path(folder) / "cache", {"what": 1}).get(build)["answer"][0])
