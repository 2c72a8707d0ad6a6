"""Files and folders appear complete or not at all, and never at the price of someone else's files."""

from __future__ import annotations

import errno
import json
import multiprocessing
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from megatron_ettin.errors import ConfigError
from megatron_ettin.files import format_bytes, locked, new_folder, write_json_atomic, write_json_lines


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_new_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep" / "out", overwrite=False, known_by="mark") as partial:
        (partial / "mark").write_text("new")
        assert not (tmp_path / "deep" / "out").exists()
    assert names(tmp_path / "deep") == ["out"]
    assert names(tmp_path / "deep" / "out") == ["mark"]


def test_new_folder_may_replace_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out", overwrite=False, known_by="mark") as partial:
        (partial / "mark").write_text("new")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["mark"]


@pytest.mark.parametrize("error", [RuntimeError("ours"), KeyboardInterrupt()])
def test_failed_block_leaves_the_previous_folder_alone(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mark").write_text("old")

    def fail() -> None:
        with new_folder(tmp_path / "out", overwrite=True, known_by="mark") as partial:
            (partial / "mark").write_text("new")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "mark").read_text() == "old"


def test_overwrite_replaces_the_complete_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in ("mark", "stale"):
        (tmp_path / "out" / name).write_text("old")
    with new_folder(tmp_path / "out", overwrite=True, known_by="mark") as partial:
        (partial / "mark").write_text("new")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["mark"]


def test_full_disk_is_reported_in_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"--save .*out: No space left on device"),
        new_folder(tmp_path / "out", overwrite=False, known_by="mark"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_unrelated_folders_files_and_links_are_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mark").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other").write_text("mine")
    for occupied in ("link", "file", "full"):
        with pytest.raises(ConfigError), new_folder(tmp_path / occupied, overwrite=overwrite, known_by="mark"):
            pytest.fail("the block must not run")
    assert names(tmp_path) == ["file", "full", "link", "mine"]
    assert (tmp_path / "mine" / "mark").read_text() == "mine"


def test_json_lines_are_written_into_new_folders(tmp_path: Path) -> None:
    files: dict[Path, list[dict[str, str]]] = {tmp_path / "a" / "x.jsonl": [{"text": "é\n"}, {}], tmp_path / "y": []}
    write_json_lines(files)
    assert [json.loads(line) for line in (tmp_path / "a" / "x.jsonl").read_text().splitlines()] == [{"text": "é\n"}, {}]
    assert (tmp_path / "y").read_text() == ""
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["x.jsonl", "y"]


def test_json_lines_that_fail_leave_all_files_unchanged(tmp_path: Path) -> None:
    def rows() -> Iterator[Mapping[str, str]]:
        yield {"text": "half"}
        raise OSError("no space left")

    (tmp_path / "first.jsonl").write_text("before\n")
    with pytest.raises(OSError, match="no space left"):
        write_json_lines({tmp_path / "first.jsonl": [{"text": "new"}], tmp_path / "second.jsonl": rows()})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"first.jsonl": "before\n"}


def test_failed_json_write_leaves_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "latest.json"
    write_json_atomic(path, {"step": 1})
    with pytest.raises(TypeError):
        write_json_atomic(path, {"step": object()})
    assert json.loads(path.read_text()) == {"step": 1}
    assert names(tmp_path) == ["latest.json"]


KILLED_WRITE = """
import os, sys
from pathlib import Path
from megatron_ettin import files
files.flush_to_disk = lambda path: os._exit(9)
files.write_json_atomic(Path(sys.argv[1]), {"step": 1})
"""


def test_json_write_replaces_what_a_killed_process_left(tmp_path: Path) -> None:
    path = tmp_path / "latest.json"
    assert subprocess.run([sys.executable, "-c", KILLED_WRITE, path], check=False).returncode == 9
    assert len(names(tmp_path)) == 1
    assert not path.exists()
    write_json_atomic(path, {"step": 2})
    assert names(tmp_path) == ["latest.json"]


def hold(path: Path, pipe: Any) -> None:
    with locked(path):
        pipe.send("locked")
        pipe.recv()


def test_lock_excludes_other_processes_until_they_end(tmp_path: Path) -> None:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path / "lock", theirs))
    process.start()
    assert ours.recv() == "locked"
    with pytest.raises(BlockingIOError), locked(tmp_path / "lock", wait=False):
        pytest.fail("the block must not run")
    process.kill()
    process.join()
    with locked(tmp_path / "lock", wait=False):
        pass


@pytest.mark.parametrize(("num_bytes", "text"), [(0, "0.0 MiB"), (3 * 2**19, "1.5 MiB"), (5 * 2**29, "2.50 GiB")])
def test_sizes_are_in_gibibytes_from_one_on(num_bytes: int, text: str) -> None:
    assert format_bytes(num_bytes) == text
