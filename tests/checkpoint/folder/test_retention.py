"""Which checkpoints are kept, and that deleting the others may be interrupted."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from megatron_ettin.checkpoint.folder import integrity, layout, lock, retention
from megatron_ettin.config.checkpoint import CheckpointConfig
from megatron_ettin.files import write_json_atomic


def write_step(save: Path, step: int, tokens: int = 0, *, complete: bool = True) -> Path:
    folder = save / layout.step_folder_name(step)
    (folder / layout.STATE_FOLDER).mkdir(parents=True)
    (folder / layout.STATE_FOLDER / "__0_0.distcp").write_bytes(b"x")
    write_json_atomic(folder / layout.RUN_FILE, {"format_version": 1, "step": step, "consumed_tokens": tokens})
    if complete:
        integrity.mark_complete(folder)
    return folder


def save_one_by_one(save: Path, times: list[tuple[int, int]], config: CheckpointConfig) -> Iterator[list[int]]:
    """Save at each of (step, tokens), delete what is not kept, and yield the remaining steps."""
    for step, tokens in times:
        retention.retire(write_step(save, step, tokens), config)
        retention.sweep(save)
        yield layout.list_steps(save)


def test_all_checkpoints_are_kept_by_default(tmp_path: Path) -> None:
    for steps in save_one_by_one(tmp_path, [(1, 0), (2, 0), (3, 0)], CheckpointConfig()):
        latest = steps
    assert latest == [1, 2, 3]


def test_the_last_ones_and_multiples_are_kept(tmp_path: Path) -> None:
    """Worked out by hand: a save every 2 steps, multiples of 6 retained, the last 2 kept."""
    config = CheckpointConfig(keep_last_checkpoints=2, save_retain_interval=6)
    steps = list(save_one_by_one(tmp_path, [(step, 0) for step in range(2, 16, 2)], config))
    assert steps == [[2], [2, 4], [4, 6], [6, 8], [6, 8, 10], [6, 10, 12], [6, 12, 14]]
    assert sorted(path.name for path in tmp_path.iterdir()) == [layout.step_folder_name(step) for step in (6, 12, 14)]


@pytest.mark.parametrize("keep_last", [1, 3])
def test_first_step_past_each_multiple_of_tokens_is_kept(tmp_path: Path, keep_last: int) -> None:
    """Against the definition, with saves at uneven token counts: earlier deletions have no effect."""
    rng, interval, tokens = random.Random(3), 1000, 0
    config = CheckpointConfig(keep_last_checkpoints=keep_last, save_retain_interval_tokens=interval)
    times: list[tuple[int, int]] = []
    for step in range(1, 30):
        tokens += rng.randint(50, 700)
        times.append((step, tokens))
    first_to_reach = {next(step for step, at in times if at >= mark) for mark in range(interval, tokens + 1, interval)}
    for steps in save_one_by_one(tmp_path, times, config):
        latest = steps
    assert latest == sorted(first_to_reach | set(range(30 - keep_last, 30)))


def test_damaged_checkpoint_is_kept_and_raises_nothing(tmp_path: Path) -> None:
    config = CheckpointConfig(keep_last_checkpoints=1, save_retain_interval_tokens=1000)
    list(save_one_by_one(tmp_path, [(1, 10)], config))
    (tmp_path / layout.step_folder_name(1) / layout.RUN_FILE).write_text("{")
    assert list(save_one_by_one(tmp_path, [(2, 20), (3, 30)], config)) == [[1, 2], [1, 3]]


def test_later_steps_belong_to_another_history(tmp_path: Path) -> None:
    """A save never deletes later steps nor counts them among the last ones."""
    for step in (1, 2, 9):
        write_step(tmp_path, step)
    retention.retire(write_step(tmp_path, 3), CheckpointConfig(keep_last_checkpoints=1))
    assert layout.list_steps(tmp_path) == [3, 9]


def test_earlier_half_written_folders_are_deleted(tmp_path: Path) -> None:
    write_step(tmp_path, 2, complete=False)
    write_step(tmp_path, 9, complete=False)
    retention.retire(write_step(tmp_path, 3), CheckpointConfig(keep_last_checkpoints=5))
    retention.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [layout.step_folder_name(step) for step in (3, 9)]


def test_checkpoint_being_read_is_deleted_by_a_later_save(tmp_path: Path) -> None:
    config = CheckpointConfig(keep_last_checkpoints=1)
    folder = write_step(tmp_path, 1)
    with lock.held(folder):
        retention.retire(write_step(tmp_path, 2), config)
        assert layout.list_steps(tmp_path) == [1, 2]
    retention.retire(write_step(tmp_path, 3), config)
    assert layout.list_steps(tmp_path) == [3]


class Killed(BaseException):
    """Stands for the end of the process."""


def test_kill_during_deletion_leaves_no_partial_checkpoint(tmp_path: Path) -> None:
    config = CheckpointConfig(keep_last_checkpoints=1)
    write_step(tmp_path, 1)
    retention.retire(write_step(tmp_path, 2), config)
    with patch.object(retention.shutil, "rmtree", side_effect=Killed), pytest.raises(Killed):
        retention.sweep(tmp_path)
    assert layout.list_steps(tmp_path) == [2]
    assert layout.half_written_folders(tmp_path) == []
    # The next sweep deletes the rest.
    retention.retire(write_step(tmp_path, 3), config)
    retention.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [layout.step_folder_name(3)]


def test_listed_folders_are_complete_during_deletion(tmp_path: Path) -> None:
    """Listing the steps during a deletion gives complete folders only."""
    seen: list[list[int]] = []
    write_step(tmp_path, 1)
    remove = retention.shutil.rmtree

    def look_and_remove(path: Path, *, ignore_errors: bool) -> None:
        for step in layout.list_steps(tmp_path):
            layout.resolve_checkpoint(tmp_path, step)
        seen.append(layout.list_steps(tmp_path))
        remove(path, ignore_errors=ignore_errors)

    with patch.object(retention.shutil, "rmtree", look_and_remove):
        retention.retire(write_step(tmp_path, 2), CheckpointConfig(keep_last_checkpoints=1))
        retention.sweep(tmp_path)
    assert seen[-1] == [2]
