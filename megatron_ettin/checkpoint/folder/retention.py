"""Which checkpoints of a folder stay, and deleting the others so that a kill leaves none half there. Stdlib only."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from megatron_ettin.checkpoint.folder.layout import (
    folder_step,
    half_written_folders,
    is_held,
    list_steps,
    read_run_json,
    step_folder_name,
)
from megatron_ettin.config.checkpoint import CheckpointConfig
from megatron_ettin.errors import ConfigError
from megatron_ettin.files import flush_to_disk

_DELETING = ".deleting_"
"""Before the name of a folder: it is no checkpoint any more, and not yet gone."""


def retire(newest: Path, config: CheckpointConfig) -> list[Path]:
    """Take out of a SAVE folder what is not to be kept, and return where it lies until :func:`sweep` deletes it.

    Half-written folders before the newest checkpoint, which killed runs left, go too.

    Args:
        newest: the folder of the checkpoint that was just made whole.
        config: what is to be kept.
    """
    if not config.keep_last_checkpoints:
        return []
    save, now = newest.parent, folder_step(newest) or 0
    times = _times(save, [step for step in list_steps(save) if step <= now], config)
    steps = list(times)
    interval = config.save_retain_interval_tokens or config.save_retain_interval
    stays = retained_times(list(times.values()), interval)
    kept = set(steps[-config.keep_last_checkpoints :]) | {step for step, stay in zip(steps, stays, strict=True) if stay}
    leaving = [save / step_folder_name(step) for step in steps if step not in kept]
    leaving = [folder for folder in leaving if not is_held(folder)]  # until a later save
    leaving += [folder for folder in half_written_folders(save) if (folder_step(folder) or 0) < now]
    return [_take_out(folder) for folder in leaving]


def retained_times(times: Sequence[int], interval: int) -> list[bool]:
    """Return which of some checkpoints are the first at or past a multiple of an interval; 0 retains none.

    Args:
        times: steps or tokens of the checkpoints that there are, ascending. Deleting one that is not retained changes
            nothing about the others.
        interval: in the same unit.

    >>> retained_times([40, 100, 130, 210, 290], 100)
    [False, True, False, True, False]
    """
    if not interval:
        return [False] * len(times)
    before = [0, *times[:-1]]
    return [time // interval > former // interval for former, time in zip(before, times, strict=True)]


def sweep(save: Path) -> None:
    """Delete what was taken out, also by a run that was killed over it."""
    for folder in save.glob(f"{_DELETING}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _times(save: Path, steps: Sequence[int], config: CheckpointConfig) -> dict[int, int]:
    """Return when each step was made, in what is counted; one whose description is damaged is left out, and stays."""
    if not config.save_retain_interval_tokens:
        return {step: step for step in steps}
    found = {}
    for step in steps:
        with suppress(ConfigError):
            found[step] = int(read_run_json(save / step_folder_name(step))["consumed_tokens"])
    return found


def _take_out(folder: Path) -> Path:
    """Rename a folder, on the disk too before anything in it is deleted."""
    target = folder.with_name(f"{_DELETING}{folder.name}")
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
    flush_to_disk(folder.parent)
    return target
