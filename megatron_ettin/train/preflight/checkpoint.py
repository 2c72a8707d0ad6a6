"""Damaged checkpoints: found before they are loaded, and passed over with ``--load-fallback``. Without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from megatron_ettin.checkpoint.folder.layout import (
    DamagedCheckpoint,
    check_small_files,
    is_one_step,
    list_steps,
    read_run_json,
    resolve_checkpoint,
    step_folder_name,
)
from megatron_ettin.config.checkpoint import CheckpointConfig
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.training import TrainingConfig
from megatron_ettin.errors import ConfigError


def settle_step(places: CheckpointConfig) -> tuple[int, tuple[str, ...]]:
    """Return the step of ``--load`` to be loaded (0 where no choice was needed), and notes of what was passed over.

    Every rank comes to the same result by itself. The contents of large files are looked at later, when ranks can share
    the work (:func:`passed_over`).

    Raises:
        ConfigError: there is no such checkpoint.
        DamagedCheckpoint: it is damaged, and no other one may be taken or is there.
    """
    one_step = is_one_step(Path(places.load))
    if places.load_fallback and one_step:
        raise ConfigError(f"--load-fallback: chooses in a --save folder, and --load {places.load} is one checkpoint")
    try:
        read_run_json(resolve_checkpoint(places.load, places.load_step))
    except DamagedCheckpoint as damage:
        if one_step:
            raise
        step = places.load_step or list_steps(Path(places.load))[-1]
        return passed_over(places, step, damage, _check)
    return places.load_step, ()


def passed_over(
    places: CheckpointConfig, step: int, damage: DamagedCheckpoint, check: Callable[[Path], None]
) -> tuple[int, tuple[str, ...]]:
    """Return the latest undamaged step before a damaged one, and a note of each that is not loaded.

    Raises:
        DamagedCheckpoint: ``--load-fallback`` was not given, or there is none.
    """
    if not places.load_fallback:
        raise DamagedCheckpoint(f"{damage} (--load-fallback loads the one before it)") from damage
    save, notes = Path(places.load), [f"passed over: {damage}"]
    for former in reversed([found for found in list_steps(save) if found < step]):
        try:
            check(save / step_folder_name(former))
        except DamagedCheckpoint as another:
            notes.append(f"passed over: {another}")
            continue
        return former, tuple(notes)
    raise DamagedCheckpoint(f"{damage}; --load-fallback found no undamaged one before it")


def _check(folder: Path) -> None:
    check_small_files(folder)
    read_run_json(folder)


class Continuation(Enum):
    """What is taken from the checkpoint besides its weights."""

    RESUME = "everything: counters, optimizer and random states"
    NEXT_PHASE = "the optimizer's state; steps, tokens and data begin anew"
    CROSS = "nothing; optimizer, steps, tokens and data begin anew"


def continuation(described: Mapping[str, Any], config: RunConfig) -> Continuation:
    """Return how ``run`` goes on from the checkpoint that a ``run.json`` describes.

    Objective and phase of ``run`` have been completed from the checkpoint, so that they differ where the user said so.
    """
    objective, phase = trained_as(described)
    now = config.training
    if (now.objective, now.phase) == (objective, phase):
        return Continuation.RESUME
    if now.phase == "cross":
        return Continuation.CROSS
    return Continuation.NEXT_PHASE


def trained_as(described: Mapping[str, Any]) -> tuple[str, str]:
    """Return objective and phase of a checkpoint."""
    training = described["config"].get("training", {})
    default = TrainingConfig()
    return training.get("objective", default.objective), training.get("phase", default.phase)
