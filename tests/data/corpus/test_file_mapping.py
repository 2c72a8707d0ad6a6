"""Mapped files: contents, lifetime, and no descriptor for each."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from megatron_ettin.data.corpus.file_mapping import map_array, map_file
from megatron_ettin.data.corpus.indexed import IndexedTokens
from tests.helpers.corpora import write_corpus


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def mappings_of(path: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(path))


def test_a_mapping_has_the_bytes_of_its_file_and_ends_with_its_last_array(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(bytes(range(256)) * 100)
    mapped = map_file(path, random_access=True)
    part = mapped[256:260]
    assert mapped.tobytes() == path.read_bytes()
    assert not mapped.flags.writeable
    del mapped
    gc.collect()
    assert part.tolist() == [0, 1, 2, 3]
    assert mappings_of(path) == 1
    del part
    gc.collect()
    assert mappings_of(path) == 0


def test_empty_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert len(map_file(tmp_path / "empty")) == 0
    with pytest.raises(FileNotFoundError):
        map_file(tmp_path / "missing")


@pytest.mark.parametrize(
    "array", [np.arange(12, dtype=np.int64).reshape(3, 4), np.zeros(0, np.uint16), np.ones(1, bool)]
)
def test_arrays_are_those_that_numpy_reads(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "array.npy", array)
    mapped, read = map_array(tmp_path / "array.npy"), np.load(tmp_path / "array.npy")
    assert mapped.dtype == read.dtype
    np.testing.assert_array_equal(mapped, read)


@pytest.mark.parametrize("is_large", [False, True])
def test_many_corpora_keep_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_large: bool) -> None:
    if is_large:
        monkeypatch.setattr("megatron_ettin.data.corpus.indexed.LARGE_DOCUMENTS", 0)
    prefix = write_corpus(tmp_path / "corpus", [[5, 6, 7], [8]])
    before = open_files()
    corpora = [IndexedTokens(prefix) for _ in range(100)]
    assert open_files() == before
    assert all(corpus.is_large is is_large and corpus.tokens.tolist() == [5, 6, 7, 8] for corpus in corpora)
