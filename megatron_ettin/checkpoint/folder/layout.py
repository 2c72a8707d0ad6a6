"""Where everything lies in a checkpoint folder, and when such a folder may be believed.

Stdlib only: conversion and tools read checkpoints through this file without torch or megatron-core.

    SAVE/lock                   held by the one live run that writes here
    SAVE/latest.json            {"step": 100, "folder": "step_0000100"}, moved after the folder is whole
    SAVE/metrics.jsonl          SAVE/tensorboard/
    SAVE/stop.json              why and where the last launch was asked to stop, if it was
    SAVE/set_aside/             later steps of a run that was taken up again from an earlier one
    SAVE/.deleting_step_*       what --keep-last-checkpoints did not keep, while it is being deleted
    SAVE/step_0000100/state/    tensors, by megatron-core's distributed checkpointing
                      run.json  what the run was and how far it had come
                      tokenizer/
                      complete.json    written last; a folder without it is not a checkpoint
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from megatron_ettin.checkpoint.folder.integrity import (
    SMALL_FILE_BYTES,
    FileFacts,
    damage_by_size,
    file_facts,
    first_damage,
)
from megatron_ettin.errors import ConfigError
from megatron_ettin.files import flush_to_disk, write_json_atomic


class DamagedCheckpoint(ConfigError):
    """A checkpoint that was whole once and is not any more."""


FORMAT_VERSION = 1
"""Version of the folder's layout and of run.json; a reader refuses a later one."""

STATE_FOLDER = "state"
TOKENIZER_FOLDER = "tokenizer"
RUN_FILE = "run.json"
MARKER_FILE = "complete.json"
LATEST_FILE = "latest.json"
LOCK_FILE = "lock"
METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
SET_ASIDE_FOLDER = "set_aside"

_STEP_FOLDER = re.compile(r"step_(\d{7,})")


def step_folder_name(step: int) -> str:
    """Return the name of a step's folder; names sort as their steps do up to ten million.

    >>> step_folder_name(100)
    'step_0000100'
    """
    return f"step_{step:07d}"


def folder_step(folder: Path) -> int | None:
    """Return the step that a folder's name stands for, or None when it is no step folder's name."""
    match = _STEP_FOLDER.fullmatch(folder.name)
    return int(match[1]) if match else None


def is_whole(folder: Path) -> bool:
    """Return whether the folder carries the marker, that is, whether its writing came to its end."""
    return (folder / MARKER_FILE).is_file()


def is_one_step(path: Path) -> bool:
    """Return whether a path names one step's folder rather than a SAVE folder."""
    # A link or "." may hide a step folder's own name, and a copy may have another one.
    return folder_step(path.resolve()) is not None or (path / RUN_FILE).is_file()


def list_steps(save: Path) -> list[int]:
    """Return the steps of all whole checkpoints in a SAVE folder, ascending; [] where there is no such folder."""
    return [step for step, folder in _step_folders(save) if is_whole(folder)]


def half_written_folders(save: Path) -> list[Path]:
    """Return the step folders that are not whole, by step: a run was killed while it wrote them."""
    return [folder for _, folder in _step_folders(save) if not is_whole(folder)]


def resolve_checkpoint(path: str | Path, step: int = 0) -> Path:
    """Return the folder of one complete checkpoint, as :func:`open_checkpoint` does."""
    return open_checkpoint(path, step)[0]


def open_checkpoint(path: str | Path, step: int = 0) -> tuple[Path, dict[str, Any]]:
    """Return the folder of one complete checkpoint and its ``run.json``. Of large files only the sizes are checked.

    Args:
        path: a SAVE folder or one step's folder (what ``--load`` was given).
        step: the wanted step of a SAVE folder; 0 takes its latest whole one.

    Raises:
        ConfigError: there is no such folder, nothing whole in it, or not this step.
        DamagedCheckpoint: a file is missing, cut short or (if it is small) changed.
    """
    given = Path(path)
    if not given.is_dir():
        raise ConfigError(f"--load {path}: there is no such folder")
    one_step = is_one_step(given)
    if one_step and not is_whole(given):
        raise ConfigError(f"--load {given}: half-written, {MARKER_FILE} is missing")
    folder = given if one_step else _step_of_save(given, step)
    check_small_files(folder)
    run_json = read_run_json(folder)
    if one_step and step not in (0, found := run_json.get("step")):
        raise ConfigError(f"--load-step {step}: --load {given} is step {found}; give the folder above it")
    return folder, run_json


def check_small_files(folder: Path) -> None:
    """Compare the files of a whole checkpoint with what its marker tells: sizes of all, checksums of small ones.

    Raises:
        DamagedCheckpoint: naming the file.
    """
    files = _told_files(folder)
    for name, told in files.items():
        _refuse_damage(folder, name, damage_by_size(folder / name, told))
    _refuse_damage(folder, first_damage(folder, {name: told for name, told in files.items() if _is_small(told)}))


def check_large_files(folder: Path, *, part: int = 0, num_parts: int = 1) -> None:
    """Compare the checksums of large files with what the marker tells; ranks each take a part of the files.

    Raises:
        DamagedCheckpoint: naming the file.
    """
    large = {name: told for name, told in _told_files(folder).items() if not _is_small(told)}
    mine = sorted(large)[part::num_parts]
    _refuse_damage(folder, first_damage(folder, {name: large[name] for name in mine}))


def read_run_json(folder: Path) -> dict[str, Any]:
    """Return the ``run.json`` of one checkpoint.

    Raises:
        ConfigError: it is missing, is not JSON, or its format is later than this code knows.
    """
    path = folder / RUN_FILE
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        version = described["format_version"]
    except OSError as error:
        raise ConfigError(f"--load {folder}: {RUN_FILE} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"--load {folder}: {RUN_FILE} does not describe a checkpoint") from error
    if version not in range(1, FORMAT_VERSION + 1):
        raise ConfigError(
            f"--load {folder}: checkpoint format {version} is not known here; this version reads up to {FORMAT_VERSION}"
        )
    assert isinstance(described, dict)
    return described


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep a whole checkpoint from being deleted by the run that writes there, as long as it is read.

    The hold ends with the process, however it ends. Where the file system knows no locks there is none.
    """
    with (folder / MARKER_FILE).open("rb") as marker:
        with suppress(OSError):
            fcntl.flock(marker, fcntl.LOCK_SH)
        yield


def is_held(folder: Path) -> bool:
    """Return whether somebody reads a whole checkpoint."""
    with (folder / MARKER_FILE).open("rb") as marker:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def mark_whole(folder: Path, known: Mapping[str, FileFacts] | None = None) -> None:
    """Write the marker with sizes and checksums of all files; everything in the folder must be written and closed.

    All files are flushed to the disk first, so that no marker outlives what it vouches for.

    Args:
        folder: of one step.
        known: what those who wrote files have counted, by path inside the folder; the others are read.
    """
    known = known or {}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MARKER_FILE)
    for path in files:
        flush_to_disk(path)
    for inner in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        flush_to_disk(inner)
    names = {str(path.relative_to(folder)): path for path in files}
    told = {name: known[name] if name in known else file_facts(path) for name, path in names.items()}
    write_json_atomic(folder / MARKER_FILE, {"files": told})


def point_latest(save: Path, step: int) -> None:
    """Move ``latest.json`` to a step whose folder is whole."""
    write_json_atomic(save / LATEST_FILE, {"step": step, "folder": step_folder_name(step)})


def set_later_aside(save: Path, step: int) -> list[Path]:
    """Move every whole checkpoint later than ``step`` under ``set_aside/`` and return where they went.

    A SAVE holds one line of history. A run taken up again from an earlier step begins another one, and "the latest"
    must not be a checkpoint of the line it left.
    """
    moved = []
    for later, folder in _step_folders(save):
        if later > step and is_whole(folder):
            aside = save / SET_ASIDE_FOLDER
            aside.mkdir(exist_ok=True)
            target = _free_name(aside / folder.name)
            folder.rename(target)
            moved.append(target)
    if moved:
        if step in list_steps(save):
            point_latest(save, step)
        else:
            (save / LATEST_FILE).unlink(missing_ok=True)
    return moved


def _step_folders(save: Path) -> list[tuple[int, Path]]:
    if not save.is_dir():
        return []
    named = [(folder_step(folder), folder) for folder in save.iterdir() if folder.is_dir()]
    return sorted((step, folder) for step, folder in named if step is not None)


def _step_of_save(save: Path, wanted: int) -> Path:
    whole = list_steps(save)
    step = wanted or (whole[-1] if whole else 0)
    if step in whole:
        return save / step_folder_name(step)
    found = f"whole steps: {', '.join(map(str, whole)) or 'none'}"
    half = half_written_folders(save)
    if half:
        found += f"; half-written: {', '.join(folder.name for folder in half)}"
    if wanted:
        raise ConfigError(f"--load-step {wanted}: --load {save} has no whole checkpoint of it ({found})")
    raise ConfigError(f"--load {save}: holds no whole checkpoint ({found})")


def _told_files(folder: Path) -> dict[str, FileFacts]:
    """Return what the marker tells of each file."""
    try:
        files = json.loads((folder / MARKER_FILE).read_text(encoding="utf-8"))["files"]
        return {str(name): {**told, "bytes": int(told["bytes"])} for name, told in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(f"--load {folder}: damaged, {MARKER_FILE} does not tell its files") from error


def _is_small(told: FileFacts) -> bool:
    return bool(told["bytes"] <= SMALL_FILE_BYTES)


def _refuse_damage(folder: Path, *words: str) -> None:
    """Refuse a folder of which the last of ``words`` says something."""
    if words[-1]:
        raise DamagedCheckpoint(f"--load {folder}: damaged, {' '.join(words)}")


def _free_name(path: Path) -> Path:
    """Return ``path``, or the first of ``path.2``, ``path.3``, ... that is free."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}.{number}")
    return candidate
