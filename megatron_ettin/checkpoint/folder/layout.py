"""File names and step folders of a SAVE folder. Standard library only: tools read checkpoints without torch.

SAVE/lock                   held by the one live run that writes here
SAVE/latest.json            {"step": 100, "folder": "step_0000100"}, written after the folder is complete
SAVE/metrics.jsonl          SAVE/tensorboard/
SAVE/stop.json              why and where the last launch was asked to stop, if it was
SAVE/set_aside/             later steps of a run that was resumed from an earlier one
SAVE/.deleting_step_*       checkpoints that --keep-last-checkpoints is deleting
SAVE/step_0000100/state/    tensors, by megatron-core's distributed checkpointing
run.json  config, counters and lineage of the run
tokenizer/
complete.json    written last; a folder without it is not a checkpoint
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from megatron_ettin.checkpoint.folder.integrity import MARKER_FILE, DamagedCheckpoint, check_small_files, is_complete
from megatron_ettin.errors import ConfigError
from megatron_ettin.files import write_json_atomic

FORMAT_VERSION = 1
"""Version of the folder's layout and of run.json; later versions are refused."""

STATE_FOLDER = "state"
TOKENIZER_FOLDER = "tokenizer"
RUN_FILE = "run.json"
LATEST_FILE = "latest.json"
LOCK_FILE = "lock"
METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
SET_ASIDE_FOLDER = "set_aside"

_STEP_FOLDER = re.compile(r"step_(\d{7,})")


def step_folder_name(step: int) -> str:
    """Return the folder name of a step; up to ten million, names sort like their steps.

    >>> step_folder_name(100)
    'step_0000100'
    """
    return f"step_{step:07d}"


def folder_step(folder: Path) -> int | None:
    """Return the step in a folder's name, or None if it is not a step folder's name."""
    match = _STEP_FOLDER.fullmatch(folder.name)
    return int(match[1]) if match else None


def is_one_step(path: Path) -> bool:
    """Return whether a path is one step's folder rather than a SAVE folder."""
    # A link or "." may hide a step folder's name, and a copy may have another one.
    return folder_step(path.resolve()) is not None or (path / RUN_FILE).is_file()


def list_steps(save: Path) -> list[int]:
    """Return the steps of all complete checkpoints in a SAVE folder, ascending; [] if there is no such folder."""
    return [step for step, folder in _step_folders(save) if is_complete(folder)]


def half_written_folders(save: Path) -> list[Path]:
    """Return the incomplete step folders by step; a run was killed while it wrote them."""
    return [folder for _, folder in _step_folders(save) if not is_complete(folder)]


def resolve_checkpoint(path: str | Path, step: int = 0) -> Path:
    """Return the folder of one complete checkpoint, as :func:`open_checkpoint` does."""
    return open_checkpoint(path, step)[0]


def open_checkpoint(path: str | Path, step: int = 0) -> tuple[Path, dict[str, Any]]:
    """Return the folder of one complete checkpoint and its ``run.json``. Large files are checked by size only.

    Args:
        path: the user's ``--load``: a SAVE folder or one step's folder.
        step: which step of a SAVE folder; 0 is the latest complete one.

    Raises:
        ConfigError: there is no such folder, no complete checkpoint in it, or not of this step.
        DamagedCheckpoint: a file is missing, truncated or (if it is small) changed.
    """
    given = Path(path)
    if not given.is_dir():
        raise ConfigError(f"--load {path}: there is no such folder")
    one_step = is_one_step(given)
    if one_step and not is_complete(given):
        raise ConfigError(f"--load {given}: half-written, {MARKER_FILE} is missing")
    folder = given if one_step else _step_of_save(given, step)
    check_small_files(folder)
    run_json = read_run_json(folder)
    if one_step and step not in (0, own := run_json.get("step")):
        raise ConfigError(f"--load-step {step}: --load {given} is step {own}; give its parent folder")
    return folder, run_json


def read_run_json(folder: Path) -> dict[str, Any]:
    """Return the ``run.json`` of one checkpoint.

    Raises:
        ConfigError: it cannot be read, or its format is later than this version supports.
        DamagedCheckpoint: it is not the JSON of a run.
    """
    try:
        run_json = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        version = run_json["format_version"]
    except OSError as error:
        raise ConfigError(f"--load {folder}: {RUN_FILE} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"--load {folder}: {RUN_FILE} does not describe a checkpoint") from error
    if version not in range(1, FORMAT_VERSION + 1):
        raise ConfigError(
            f"--load {folder}: checkpoint format {version} is not supported; this version reads up to {FORMAT_VERSION}"
        )
    assert isinstance(run_json, dict)
    return run_json


def point_latest(save: Path, step: int) -> None:
    """Point ``latest.json`` to a step whose folder is complete."""
    write_json_atomic(save / LATEST_FILE, {"step": step, "folder": step_folder_name(step)})


def set_later_aside(save: Path, step: int) -> list[Path]:
    """Move every complete checkpoint later than ``step`` to ``set_aside/`` and return the new paths.

    A SAVE folder contains one history. A run resumed from an earlier step starts another one, and its latest
    checkpoint must not be one of the abandoned history.
    """
    moved = []
    for later, folder in _step_folders(save):
        if later > step and is_complete(folder):
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
    complete = list_steps(save)
    step = wanted or (complete[-1] if complete else 0)
    if step in complete:
        return save / step_folder_name(step)
    content = f"complete steps: {', '.join(map(str, complete)) or 'none'}"
    half = half_written_folders(save)
    if half:
        content += f"; half-written: {', '.join(folder.name for folder in half)}"
    if wanted:
        raise ConfigError(f"--load-step {wanted}: --load {save} has no complete checkpoint of this step ({content})")
    raise ConfigError(f"--load {save}: has no complete checkpoint ({content})")


def _free_name(path: Path) -> Path:
    """Return ``path``, or the first free one of ``path.2``, ``path.3``, ..."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}.{number}")
    return candidate
