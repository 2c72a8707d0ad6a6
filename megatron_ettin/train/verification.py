"""The contents of a checkpoint compared with its checksums by all ranks together, before it is loaded."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed

from megatron_ettin.checkpoint.layout import (
    DamagedCheckpoint,
    check_large_files,
    check_small_files,
    folder_step,
    is_one_step,
    read_run_json,
    resolve_checkpoint,
    step_folder_name,
)
from megatron_ettin.config.errors import ConfigError
from megatron_ettin.config.fields import spell, value_of
from megatron_ettin.config.run import RunConfig
from megatron_ettin.runtime.groups import Ranks
from megatron_ettin.train.fallback import passed_over
from megatron_ettin.train.inheritance import FIXED, INHERITED


def find_undamaged(run: RunConfig, ranks: Ranks) -> tuple[Path, tuple[str, ...]]:
    """Return the folder that ``--load`` names and notes of damaged ones passed over; collective over the world.

    Raises:
        DamagedCheckpoint: on all ranks, when it is damaged and no other may be taken or is there.
        ConfigError: the one that would be taken instead was trained with other settings.
    """
    places, check = run.checkpoint, partial(_check_together, ranks=ranks)
    folder = resolve_checkpoint(places.load, places.load_step)
    try:
        check(folder)
    except DamagedCheckpoint as damage:
        step = folder_step(folder)
        if step is None or is_one_step(Path(places.load)):
            raise
        step, notes = passed_over(places, step, damage, check)
        former = Path(places.load) / step_folder_name(step)
        _refuse_other_settings(former, folder, step)
        return former, notes
    return folder, ()


def _check_together(folder: Path, ranks: Ranks) -> None:
    """Look at all files of a checkpoint, each rank at a part of the large ones."""
    found = ""
    try:
        check_small_files(folder)
        check_large_files(folder, part=ranks.rank, num_parts=ranks.world_size)
    except DamagedCheckpoint as damage:
        found = str(damage)
    told: list[Any] = [""] * ranks.world_size
    torch.distributed.all_gather_object(told, found)
    for words in told:
        if words:
            raise DamagedCheckpoint(words)


def _refuse_other_settings(former: Path, damaged: Path, step: int) -> None:
    """What this run has taken from the damaged checkpoint's (undamaged) run.json must hold for the other one."""
    one, other = (RunConfig.from_dict(read_run_json(folder)["config"]) for folder in (damaged, former))
    differing = [spell(other, name) for name in (*FIXED, *INHERITED) if value_of(one, name) != value_of(other, name)]
    if differing:
        raise ConfigError(
            f"--load-fallback: {damaged} is damaged, and the one before was trained otherwise "
            f"({' '.join(differing)}); go on from {former} by --load-step {step}"
        )
