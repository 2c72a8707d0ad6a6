"""Checkpoints written during training contain the state of their step, and failures are reported."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch

from megatron_ettin.checkpoint.folder.integrity import MARKER_FILE, is_complete
from megatron_ettin.checkpoint.folder.layout import (
    STATE_FOLDER,
    half_written_folders,
    list_steps,
    read_run_json,
    resolve_checkpoint,
    step_folder_name,
)
from megatron_ettin.convert.checkpoint_reader import CheckpointReader
from megatron_ettin.errors import RunFailure
from tests.checkpoint.test_save import stored_tensors
from tests.checkpoint.training import Case, start
from tests.helpers.distributed import run_ranks
from tests.helpers.training import save_training, train_steps

LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "one": (1, {}),
    "tp2": (2, {"tensor_model_parallel_size": 2}),
    "dp2-distributed-optimizer": (2, {"use_distributed_optimizer": True}),
    "dp2-distributed-optimizer-bf16": (2, {"use_distributed_optimizer": True, "bf16": True}),
    "stable-adamw-bf16": (1, {"optimizer": "stable_adamw", "bf16": True}),
}


class Gate:
    """Delays background writes until it is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()

    @contextmanager
    def closed(self) -> Iterator[Gate]:
        """Delay every write that starts inside the block."""
        from megatron_ettin.checkpoint import manager

        write = manager.attempt_write

        def write_later(*arguments: Any) -> Any:
            assert self._open.wait(60)
            return write(*arguments)

        with patch.object(manager, "attempt_write", write_later):
            yield self

    def open(self) -> None:
        self._open.set()


def start_run(save: str, log: list[str], *, in_background: bool = True, **overrides: Any) -> tuple[Any, Any, Any]:
    """Return a training, its checkpoint manager for ``save`` and its counters."""
    from megatron_ettin.checkpoint.manager import CheckpointManager

    training, state = start(Case(0, save=save, overrides=tuple(overrides.items())))
    config = training.config.with_values({"save": save, "async_save": in_background})
    training.config = config
    manager = CheckpointManager(config, training.parts, tokenizer_files={"tokenizer.json": b"{}"}, log=log.append)
    return training, manager, state


def train(training: Any, state: Any, steps: int) -> None:
    for result in train_steps(training, range(state.step, state.step + steps)):
        state.count_step(4, result.sums.real_tokens)


def wait_until_logged(manager: Any, log: list[str]) -> None:
    """Ask as a loop does between steps; each call waits at most for other ranks."""
    deadline, before = time.monotonic() + 60, len(log)
    while len(log) == before:
        assert time.monotonic() < deadline
        manager.finish_if_written()


def save_both_ways(folder: str, overrides: dict[str, Any]) -> None:
    """Save step 2 synchronously, then in the background during two more steps; then save step 5 both ways."""
    log: list[str] = []
    training, manager, state = start_run(f"{folder}/background", log, **overrides)
    train(training, state, 2)
    save_now(f"{folder}/now", training, state)
    gate = Gate()
    with gate.closed():
        manager.save(state)
        train(training, state, 2)
        manager.finish_if_written()
        assert log == []
        assert not (Path(folder) / "background" / step_folder_name(2) / MARKER_FILE).exists()
        gate.open()
        wait_until_logged(manager, log)
    train(training, state, 1)
    save_now(f"{folder}/now", training, state)
    manager.save(state)
    train(training, state, 1)
    manager.finish()
    assert log == [f"saved {folder}/background/{step_folder_name(step)}" for step in (2, 5)]


def save_now(folder: str, training: Any, state: Any) -> None:
    save_training(Path(folder), training, state, {"tokenizer.json": b"{}"})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_background_checkpoint_contains_the_state_of_its_step(tmp_path: Path, layout: str) -> None:
    """Bit-equal to a synchronous save, although the write started after later steps."""
    world_size, overrides = LAYOUTS[layout]
    run_ranks(world_size, save_both_ways, str(tmp_path), overrides)
    for step in (2, 5):
        now, background = (resolve_checkpoint(tmp_path / kind, step) for kind in ("now", "background"))
        names = stored_tensors(now)
        assert names == stored_tensors(background)
        readers = CheckpointReader(now), CheckpointReader(background)
        for name in names:
            assert torch.equal(readers[0].tensor(name), readers[1].tensor(name)), name
        # Random states and other objects that are not tensors are in the same files.
        assert data_files(now) == data_files(background)
        described = [read_run_json(folder) for folder in (now, background)]
        assert described[0] == described[1]
        assert described[0]["step"] == step


def data_files(folder: Path) -> dict[str, Any]:
    files = json.loads((folder / MARKER_FILE).read_text())["files"]
    return {name: record for name, record in files.items() if name.endswith(".distcp")}


def save_twice(folder: str) -> list[str]:
    """Start a second save while the first is delayed; return the events in order."""
    events: list[str] = []
    training, manager, state = start_run(folder, events)
    train(training, state, 1)
    gate = Gate()
    with gate.closed():
        manager.save(state)
        train(training, state, 1)

        def open_later() -> None:
            events.append("opened")
            gate.open()

        threading.Timer(0.3, open_later).start()
        manager.save(state)
        events.append("second pending")
        manager.finish()
    return events


def test_the_next_save_waits_for_the_previous_one(tmp_path: Path) -> None:
    events = run_ranks(1, save_twice, str(tmp_path))[0]
    first, second = (f"saved {tmp_path / step_folder_name(step)}" for step in (1, 2))
    assert events == ["opened", first, "second pending", second]


def save_with_an_obstacle(folder: str, in_background: bool) -> tuple[str, list[str]]:
    """Save step 1, then fail on rank 1 at step 2; return the reason and the log."""
    log: list[str] = []
    training, manager, state = start_run(folder, log, in_background=in_background, tensor_model_parallel_size=2)
    train(training, state, 1)
    manager.save(state)
    manager.finish()
    train(training, state, 1)
    from megatron_ettin.checkpoint import manager as managing
    from megatron_ettin.checkpoint import save as saving

    write = saving.attempt_write

    def write_into_obstacle(staged: Any, ranks: Any) -> Any:
        if ranks.rank == 1:  # a folder where the file should be
            (staged.folder / STATE_FOLDER / "__1_0.distcp").mkdir()
        return write(staged, ranks)

    with patch.object(managing, "attempt_write", write_into_obstacle):
        try:
            manager.save(state)
            manager.finish()
        except RunFailure as failure:
            return str(failure), log
    raise AssertionError("a failed write went unnoticed")


@pytest.mark.parametrize("in_background", [False, True])
def test_failed_write_stops_all_ranks_with_its_reason(tmp_path: Path, in_background: bool) -> None:
    for reason, log in run_ranks(2, save_with_an_obstacle, str(tmp_path), in_background):
        assert "rank 1" in reason
        assert f"{step_folder_name(2)}/{STATE_FOLDER}/__1_0.distcp: Is a directory" in reason
        assert log == [f"saved {tmp_path / step_folder_name(1)}"]
    assert list_steps(tmp_path) == [1]
    assert half_written_folders(tmp_path) == []
    assert is_complete(resolve_checkpoint(tmp_path))


def save_beyond_limit(folder: str, limit_bytes: int) -> str:
    """Save under a limit on file sizes, like a quota; return the reason of the failure."""
    import resource

    training, manager, state = start_run(folder, [])
    train(training, state, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limits[1]))
    try:
        manager.save(state)
        manager.finish()
    except RunFailure as failure:
        return str(failure)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    raise AssertionError("a failed write went unnoticed")


def test_disk_error_in_the_middle_of_a_file_is_the_reason(tmp_path: Path) -> None:
    reason = run_ranks(1, save_beyond_limit, str(tmp_path), 300_000)[0]
    assert f"rank 0 could not write {tmp_path}" in reason
    assert "__0_0.distcp: File too large" in reason
    assert not list(tmp_path.glob("step_*"))


def save_on_a_small_disk(folder: str, free_bytes: int) -> str:
    """Save step 1, then step 2 on a disk with the given space; return the refusal, or nothing."""
    from megatron_ettin.checkpoint import save

    training, manager, state = start_run(folder, [], in_background=False, tensor_model_parallel_size=2)
    train(training, state, 1)
    manager.save(state)
    train(training, state, 1)
    usage = SimpleNamespace(free=free_bytes)
    with patch.object(save.shutil, "disk_usage", lambda path: usage):
        try:
            manager.save(state)
        except RunFailure as failure:
            return str(failure)
    return ""


def test_full_disk_is_detected_before_anything_is_written(tmp_path: Path) -> None:
    """The need is the sum over ranks: enough for one is too little for both."""
    assert run_ranks(2, save_on_a_small_disk, str(tmp_path / "enough"), 2**30) == ["", ""]
    stored = sum(path.stat().st_size for path in (tmp_path / "enough").glob("*2/state/*.distcp"))
    spare = 2**24
    refusals = run_ranks(2, save_on_a_small_disk, str(tmp_path / "small"), spare + stored * 2 // 3)
    for refusal in refusals:
        assert refusal.startswith(f"--save {tmp_path}/small: the disk has 1")
        assert "checkpoint of step 2 needs" in refusal
    assert [path.name for path in sorted((tmp_path / "small").glob("step_*"))] == [step_folder_name(1)]
    assert list_steps(tmp_path / "small") == [1]
