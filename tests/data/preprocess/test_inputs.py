"""Inputs and tasks: globs and folders expand in order, and tasks cover every input once."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ettin.data.preprocess.inputs import find_inputs
from megatron_ettin.data.preprocess.plan import plan_tasks, share_of
from megatron_ettin.data.preprocess.readers import lines
from megatron_ettin.data.preprocess.readers.records import LARGEST_DOCUMENT_FILE
from megatron_ettin.data.preprocess.texts import read_texts
from megatron_ettin.errors import ConfigError


def test_globs_and_folders_are_expanded_by_name(tmp_path: Path) -> None:
    for name in ("b/2.jsonl", "b/1.jsonl.gz", "a/x.txt", "a/notes.md", "z.parquet", ".hidden.jsonl", "o.manifest.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "o.parts").mkdir()
    (tmp_path / "o.parts" / "journal.jsonl").touch()
    described = [
        (os.path.relpath(file.path, tmp_path), file.kind, file.compression) for file in find_inputs([str(tmp_path)])
    ]
    expected = [("a/x.txt", "text", ""), ("b/1.jsonl.gz", "json", "gz"), ("b/2.jsonl", "json", "")]
    assert described == [*expected, ("z.parquet", "parquet", "")]
    assert [file.path for file in find_inputs([str(tmp_path / "b" / "*")])] == [
        str(tmp_path / "b" / name) for name in ("1.jsonl.gz", "2.jsonl")
    ]
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "linked").symlink_to(tmp_path / "a")
    again = [os.path.relpath(file.path, tmp_path) for file in find_inputs([str(tmp_path)])]
    assert again == ["a/x.txt", "b/1.jsonl.gz", "b/2.jsonl", "b/linked/x.txt", "z.parquet"], (
        "no folder is read inside itself"
    )
    (tmp_path / "empty").mkdir()
    for entry, message in (
        ("none.jsonl", "no such file"),
        ("*.csv", "no file matches"),
        ("empty", "the folder has no file to read"),
    ):
        with pytest.raises(ConfigError, match=message):
            find_inputs([str(tmp_path / entry)])


def test_a_large_text_file_is_refused_as_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sparse.txt").touch()
    os.truncate(tmp_path / "sparse.txt", LARGEST_DOCUMENT_FILE + 1)
    (large,) = find_inputs([str(tmp_path / "sparse.txt")])
    rule = r"a file of this size cannot be one document; give --text-documents paragraph or line"
    with pytest.raises(ConfigError, match=rf"--input .*sparse\.txt: {rule}"):
        plan_tasks([large], 1 << 20, "file")
    assert len(plan_tasks([large], 1 << 20, "line")) == 33
    # A small file may decompress to a large one.
    monkeypatch.setattr(lines, "LARGEST_DOCUMENT_FILE", 1 << 21)
    compressed = tmp_path / "packed.txt.gz"
    compressed.write_bytes(gzip.compress(b"all the same " * 300_000))
    with pytest.raises(ConfigError, match=rf"--input .*packed\.txt\.gz from line 1 on: {rule}"):
        list(read_texts([str(compressed)], "--input"))
    assert list(read_texts([str(compressed)], "--input", skip_bad=True)) == []


@given(st.lists(st.integers(0, 300), min_size=1, max_size=30), st.integers(1, 7))
def test_tasks_cover_all_inputs_once_and_shares_are_consecutive(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], num_shards: int
) -> None:
    folder = tmp_path_factory.mktemp("plan")
    for number, size in enumerate(sizes):
        (folder / f"{number:03d}.{'jsonl' if number % 3 else 'jsonl.gz'}").write_bytes(b"x" * size)
    inputs = find_inputs([str(folder)])
    tasks = plan_tasks(inputs, 100, "file")
    covered = [(span.file, span.start, span.end) for task in tasks for span in task.spans]
    at: dict[int, int] = {}
    for file, start, end in covered:
        assert start == at.get(file, 0)
        at[file] = inputs[file].num_bytes if end is None else end
        assert not inputs[file].compression or end is None
    assert at == {number: file.num_bytes for number, file in enumerate(inputs)}
    assert [file for file, *_ in covered] == sorted(file for file, *_ in covered)
    shares = [share_of(tasks, index, num_shards) for index in range(num_shards)]
    assert [task for share in shares for task in share] == tasks
