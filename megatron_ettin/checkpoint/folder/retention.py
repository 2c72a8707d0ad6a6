"""Which checkpoints of a SAVE folder are kept, and deletion that a kill cannot leave half done.

Standard library only.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from megatron_ettin.checkpoint.folder.layout import (
    folder_step,
    half_written_folders,
    list_steps,
    read_run_json,
    step_folder_name,
)
from megatron_ettin.checkpoint.folder.lock import is_held
from megatron_ettin.config.checkpoint import CheckpointConfig
from megatron_ettin.errors import ConfigError
from megatron_ettin.files import flush_to_disk

_DELETING = ".deleting_"
"""Prefix of a folder that is no longer a checkpoint and not yet deleted."""


def retire(newest: Path, config: CheckpointConfig) -> list[Path]:
    """Rename the checkpoints that are not kept, and return their new paths; :func:`sweep` deletes them.

    Half-written folders of killed runs from before the newest checkpoint are renamed too.

    Args:
        newest: the folder of the checkpoint that was just completed.
        config: what to keep.
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
    leaving = [folder for folder in leaving if not is_held(folder)]  # a later save retries
    leaving += [folder for folder in half_written_folders(save) if (folder_step(folder) or 0) < now]
    return [_rename_for_deletion(folder) for folder in leaving]


def retained_times(times: Sequence[int], interval: int) -> list[bool]:
    """Return which checkpoints are the first at or past a multiple of an interval; 0 retains none.

    Args:
        times: steps or tokens of the existing checkpoints, ascending. Deleting one that is not retained does not
            change the result for the others.
        interval: in the same unit.

    >>> retained_times([40, 100, 130, 210, 290], 100)
    [False, True, False, True, False]
    """
    if not interval:
        return [False] * len(times)
    before = [0, *times[:-1]]
    return [time // interval > previous // interval for previous, time in zip(before, times, strict=True)]


def sweep(save: Path) -> None:
    """Delete the renamed folders, including those of a run that was killed while deleting."""
    for folder in save.glob(f"{_DELETING}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _times(save: Path, steps: Sequence[int], config: CheckpointConfig) -> dict[int, int]:
    """Return each step's time in the unit of the interval; a step with a damaged run.json is omitted, so it is kept."""
    if not config.save_retain_interval_tokens:
        return {step: step for step in steps}
    times = {}
    for step in steps:
        with suppress(ConfigError):
            times[step] = int(read_run_json(save / step_folder_name(step))["consumed_tokens"])
    return times


def _rename_for_deletion(folder: Path) -> Path:
    """Rename a folder; the new name is on the disk before anything in the folder is deleted."""
    target = folder.with_name(f"{_DELETING}{folder.name}")
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
    flush_to_disk(folder.parent)
    return target
