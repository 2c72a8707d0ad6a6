"""The work folder after kills and power failures: complete parts are kept, incomplete ones are encoded again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megatron_ettin.data.corpus.indexed_writer import IndexedWriter
from megatron_ettin.data.preprocess.journal import Journal
from megatron_ettin.data.preprocess.progress import Progress
from megatron_ettin.data.preprocess.worker import PartDone, TaskEnded, part_prefix, skipped_file

FACTS = {"--input": ["a"]}
KEYS = 2


def journal(folder: Path, tasks: int = 3) -> Journal:
    return Journal(str(folder), FACTS, range(tasks), KEYS)


def finish(opened: Journal, folder: Path, task: int, skipped: int = 0) -> None:
    """Write a task of one part as a worker does, and record it."""
    pairs = []
    for key in range(KEYS):
        with IndexedWriter(part_prefix(str(folder), task, 0, key), np.uint16) as writer:
            for token in range(5):
                writer.add_document([10 * task + key] * (token + 1))
            pairs.append(writer.summary())
    if skipped:
        Path(skipped_file(str(folder), task, 0)).write_text("{}\n")
    opened.record(PartDone(task, 0, Progress(documents=5, skipped=skipped), tuple(pairs), 5))
    opened.record(TaskEnded(task, 1))


def finished_tasks(folder: Path) -> list[int]:
    with journal(folder) as opened:
        return sorted(part.task for part in opened.finished)


def interrupt(folder: Path) -> None:
    """Leave a run in which task 0 is joined and task 2 waits for task 1."""
    with journal(folder) as opened:
        for task in (0, 2):
            finish(opened, folder, task, skipped=task)
            opened.join()


def test_parts_are_joined_in_the_order_of_the_tasks(tmp_path: Path) -> None:
    folder = tmp_path / "out.parts"
    interrupt(folder)
    with journal(folder) as opened:
        finish(opened, folder, 1)
        opened.join()
        assert not list(folder.glob("0*.bin"))
        for key in range(KEYS):
            tokens = np.fromfile(opened.joined_file(key, ".bin"), np.uint16)
            assert tokens.tolist() == [10 * task + key for task in range(3) for _ in range(15)]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("000002-000000-1.bin", lambda data: bytes(len(data))),
        ("000002-000000-1.bin", lambda data: data[:-1]),
        ("000002-000000-0.idx", lambda data: b""),
        ("000002-000000-0.idx", lambda data: bytes(len(data))),
        ("000002-000000-0.idx", lambda data: data[:-8]),
        ("000002-000000.skipped.jsonl", None),
    ],
)
def test_a_damaged_part_is_encoded_again(tmp_path: Path, name: str, damage: Callable[[bytes], bytes] | None) -> None:
    folder = tmp_path / "out.parts"
    interrupt(folder)
    assert finished_tasks(folder) == [0, 2]
    if damage is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(damage((folder / name).read_bytes()))
    assert finished_tasks(folder) == [0]


@pytest.mark.parametrize("tail", [b'{"part": {"ta', b"\0" * 300, b'\0\0\n{"joined": 3}\n', b'{"joined": 3}'])
def test_incomplete_journal_entries_are_dropped(tmp_path: Path, tail: bytes) -> None:
    folder = tmp_path / "out.parts"
    interrupt(folder)
    before = (folder / "journal.jsonl").read_bytes()
    (folder / "journal.jsonl").write_bytes(before + tail)
    assert finished_tasks(folder) == [0, 2]
    assert (folder / "journal.jsonl").read_bytes() == before


def test_an_unfinished_copy_is_truncated_and_a_lost_one_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "out.parts"
    interrupt(folder)
    joined = folder / "joined-1.bin"
    content = joined.read_bytes()
    joined.write_bytes(content + b"unfinished")
    assert finished_tasks(folder) == [0, 2]
    assert joined.read_bytes() == content
    joined.write_bytes(content[:-1])
    assert finished_tasks(folder) == [2]
    assert (joined.stat().st_size, (folder / "joined-0.bin").stat().st_size) == (0, 0)
    with journal(folder) as opened:
        for task in (0, 1):
            finish(opened, folder, task)
        opened.join()
    assert joined.read_bytes()[: len(content)] == content


def test_parts_are_deleted_only_after_the_joined_file_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out.parts"
    done: list[str] = []
    flush, remove = os.fsync, Path.unlink

    def log_flush(descriptor: int) -> None:
        done.append(f"flush {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        flush(descriptor)

    def log_removal(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".bin":
            done.append(f"remove {path.name}")
        remove(path, missing_ok)

    monkeypatch.setattr(os, "fsync", log_flush)
    with journal(folder) as opened:
        finish(opened, folder, 0, skipped=1)
        monkeypatch.setattr(Path, "unlink", log_removal)
        done.clear()
        opened.join()
    first_removal = done.index("remove 000000-000000-0.bin")
    kept = {"joined-0.bin", "joined-1.bin", "000000-000000-0.idx", "000000-000000-1.idx"}
    kept |= {"000000-000000.skipped.jsonl", "out.parts"}
    assert set(done[:first_removal]) == {f"flush {name}" for name in (*kept, "journal.jsonl")}
    assert done[first_removal - 1] == "flush journal.jsonl", "recorded after everything else"
