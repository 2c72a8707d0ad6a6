"""Resolve ``--load`` once, before torch is imported, and decide what the launch restores from the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from megatron_ettin.checkpoint.folder.integrity import DamagedCheckpoint
from megatron_ettin.checkpoint.folder.layout import (
    folder_step,
    is_one_step,
    list_steps,
    open_checkpoint,
    step_folder_name,
)
from megatron_ettin.config.checkpoint import CheckpointConfig
from megatron_ettin.config.command_line import Command
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.training import TrainingConfig
from megatron_ettin.errors import ConfigError
from megatron_ettin.train.preflight.inherited import inherit_settings

RunJson = Mapping[str, Any]
"""The content of a checkpoint's ``run.json``."""


class ResumeMode(Enum):
    """What a launch restores from its checkpoint."""

    RESUME = "weights, optimizer, random states and counters"
    NEXT_PHASE = "weights and optimizer; counters and data start over"
    CROSS = "weights; optimizer, counters and data start over"
    EVALUATE = "weights"


@dataclass(frozen=True)
class ResumePlan:
    """The checkpoint that a launch with ``--load`` starts from; made once and handed down."""

    folder: Path
    run_json: RunJson
    mode: ResumeMode
    notes: tuple[str, ...] = ()
    """Damaged checkpoints that were skipped and settings that were inherited, one line each."""

    @property
    def trained_as(self) -> str:
        """Objective and phase of the checkpoint, as flags."""
        return "--objective {} --phase {}".format(*_objective_and_phase(self.run_json))


def plan_resume(command: Command) -> tuple[RunConfig, ResumePlan]:
    """Complete a run from the checkpoint that ``--load`` names and plan what is restored from it.

    Every rank gets the same result without communication. Large files are checked by their sizes alone; ranks verify
    their checksums together once the process group exists.

    Raises:
        ConfigError: there is no such checkpoint, or a flag contradicts it.
        DamagedCheckpoint: it is damaged, and ``--load-fallback`` is not given or finds no other one.
    """
    folder, run_json, skipped = _open_undamaged(command.config.checkpoint)
    if skipped:
        config = command.config.with_values({"load_step": folder_step(folder)})
        command = replace(command, config=config, given={**command.given, "load_step": ""})
    config, inherited = inherit_settings(command, folder, run_json)
    return config, ResumePlan(folder, run_json, _resume_mode(run_json, config), (*skipped, *inherited))


def _open_undamaged(checkpoint: CheckpointConfig) -> tuple[Path, RunJson, tuple[str, ...]]:
    """Return folder and ``run.json`` of the checkpoint to load, and a line on each damaged one that was skipped."""
    load = Path(checkpoint.load)
    one_step = is_one_step(load)
    if checkpoint.load_fallback and one_step:
        raise ConfigError(f"--load-fallback: chooses in a --save folder, and --load {load} is one checkpoint")
    try:
        return (*open_checkpoint(load, checkpoint.load_step), ())
    except DamagedCheckpoint as damage:
        if one_step:
            raise
        step = checkpoint.load_step or list_steps(load)[-1]
        return fall_back(checkpoint, step, damage, lambda earlier: open_checkpoint(load, earlier)[1])


def fall_back(
    checkpoint: CheckpointConfig, step: int, damage: DamagedCheckpoint, read: Callable[[int], RunJson]
) -> tuple[Path, RunJson, tuple[str, ...]]:
    """Return folder and ``run.json`` of the latest undamaged checkpoint before a step, and a line on each skipped one.

    Args:
        checkpoint: names the folder.
        step: of the damaged checkpoint.
        damage: what is wrong with it.
        read: checks the checkpoint of a step and returns its ``run.json``.

    Raises:
        DamagedCheckpoint: ``--load-fallback`` is not given, or no earlier checkpoint is undamaged.
    """
    if not checkpoint.load_fallback:
        raise DamagedCheckpoint(f"{damage} (--load-fallback loads the one before it)") from damage
    save, notes = Path(checkpoint.load), [f"skipped: {damage}"]
    for earlier in reversed([saved for saved in list_steps(save) if saved < step]):
        try:
            return save / step_folder_name(earlier), read(earlier), tuple(notes)
        except DamagedCheckpoint as another:
            notes.append(f"skipped: {another}")
    raise DamagedCheckpoint(f"{damage}; --load-fallback found no undamaged one before it")


def _resume_mode(run_json: RunJson, config: RunConfig) -> ResumeMode:
    training = config.training
    if training.eval_only:
        return ResumeMode.EVALUATE
    if (training.objective, training.phase) == _objective_and_phase(run_json):  # inherited unless given
        return ResumeMode.RESUME
    return ResumeMode.CROSS if training.phase == "cross" else ResumeMode.NEXT_PHASE


def _objective_and_phase(run_json: RunJson) -> tuple[str, str]:
    training = run_json["config"].get("training", {})
    default = TrainingConfig()
    return training.get("objective", default.objective), training.get("phase", default.phase)
