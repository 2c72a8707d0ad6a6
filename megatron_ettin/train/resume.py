"""Initialise a run, or restore model, optimizer and random states from its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed

from megatron_ettin.checkpoint.folder.integrity import DamagedCheckpoint, check_large_files, check_small_files
from megatron_ettin.checkpoint.folder.layout import (
    folder_step,
    half_written_folders,
    is_one_step,
    read_run_json,
    set_later_aside,
    step_folder_name,
)
from megatron_ettin.checkpoint.folder.state import TrainingState
from megatron_ettin.checkpoint.load import LoadResult, load_training, load_with_fresh_optimizer
from megatron_ettin.config.run import RunConfig, run_options, spell, value_of
from megatron_ettin.data.fingerprint import changed_causes
from megatron_ettin.errors import ConfigError
from megatron_ettin.runtime.process import seed_process
from megatron_ettin.runtime.ranks import Ranks
from megatron_ettin.train.build import Training
from megatron_ettin.train.preflight.checkpoint import ResumeMode, ResumePlan, RunJson, fall_back
from megatron_ettin.train.preflight.history import spell_changes
from megatron_ettin.train.preflight.inherited import FIXED, INHERITED, RESUMED


def restore(training: Training, plan: ResumePlan | None) -> LoadResult:
    """Return the state that training starts from, with the model and optimizer filled; collective over the world.

    Without a plan, the freshly drawn weights are kept.

    Raises:
        ConfigError: the checkpoint's tensors are not those of this model.
    """
    settings = training.config.training
    if plan is None:
        return LoadResult(TrainingState.start(settings.objective, phase=settings.phase), ())
    if plan.mode is ResumeMode.RESUME:
        return _resume(training, plan)
    notes: tuple[str, ...] = ()
    if plan.mode is ResumeMode.NEXT_PHASE:
        notes = _load(training, plan).notes
        seed_process(settings.seed, training.ranks)  # dropout does not continue the draws of the previous phase
    else:
        load_with_fresh_optimizer(plan.folder, training.parts)
    lineage = TrainingState.from_run_json(plan.run_json).lineage
    state = TrainingState.start(settings.objective, parent=str(plan.folder), lineage=lineage, phase=settings.phase)
    phase = f"--objective {settings.objective} --phase {settings.phase}"
    return LoadResult(
        state, (f"{phase} starts from {plan.folder} ({plan.trained_as}); restored: {plan.mode.value}", *notes)
    )


def _resume(training: Training, plan: ResumePlan) -> LoadResult:
    """Resume bit for bit; a checkpoint in ``--save`` becomes the latest one there."""
    save = Path(training.config.checkpoint.save)
    result = _load(training, plan)
    state = result.state
    notes = [f"loaded {plan.folder}: step {state.step}, {state.consumed_tokens:,} tokens", *result.notes]
    if changed := changed_settings(plan.run_json["config"], training.config):
        notes.append(f"settings changed since the checkpoint: {changed}")
    if training.ranks.is_main and plan.folder.resolve().parent == save.resolve():
        notes += [f"half-written, not a checkpoint: {path}" for path in half_written_folders(save)]
        notes += [f"set aside, from a later step: {path}" for path in set_later_aside(save, plan.run_json["step"])]
    return LoadResult(state, tuple(notes))


def _load(training: Training, plan: ResumePlan) -> LoadResult:
    return load_training(plan.folder, plan.run_json, training.parts, training.config.training.seed)


def record_data_order(state: TrainingState, data_order: dict[str, Any]) -> tuple[str, ...]:
    """Store what determines the order of the data in a state; return a line on what changed, if anything did."""
    changes = changed_causes(state.data_order, data_order) if state.data_order else {}
    state.data_order = data_order
    if not changes:
        return ()
    changed = {name: {"was": before, "is": now} for name, (before, now) in changes.items()}
    state.data_changes = [*state.data_changes, {"step": state.step, "changed": changed}]
    state.source_rows = []
    return (f"continues with other data (--accept-data-change); changed: {spell_changes(changes)}",)


def verify_checkpoint(plan: ResumePlan, config: RunConfig, ranks: Ranks) -> ResumePlan:
    """Verify the large files of a planned checkpoint; collective over the world.

    With ``--load-fallback``, a damaged checkpoint is replaced by the latest undamaged one before it.

    Raises:
        DamagedCheckpoint: on all ranks, when it is damaged and no other one may or can replace it.
        ConfigError: the other one was trained with different settings.
    """
    try:
        _check_together(plan.folder, ranks)
    except DamagedCheckpoint as damage:
        save, step = Path(config.checkpoint.load), folder_step(plan.folder)
        if step is None or is_one_step(save):
            raise
        folder, run_json, skipped = fall_back(
            config.checkpoint, step, damage, lambda earlier: _open_together(save / step_folder_name(earlier), ranks)
        )
        _refuse_other_settings(plan, folder, run_json)
        return replace(plan, folder=folder, run_json=run_json, notes=(*plan.notes, *skipped))
    return plan


def _open_together(folder: Path, ranks: Ranks) -> RunJson:
    """Verify all files of a checkpoint that preflight has not opened; return its ``run.json``."""
    _check_together(folder, ranks, small_too=True)
    return read_run_json(folder)


def _check_together(folder: Path, ranks: Ranks, *, small_too: bool = False) -> None:
    """Verify the large files, each rank a part of them; all ranks raise what any of them found."""
    damage = ""
    try:
        if small_too:
            check_small_files(folder)
        check_large_files(folder, part=ranks.rank, num_parts=ranks.world_size)
    except DamagedCheckpoint as error:
        damage = str(error)
    damages: list[Any] = [""] * ranks.world_size
    torch.distributed.all_gather_object(damages, damage)
    if any(damages):
        raise DamagedCheckpoint(next(filter(None, damages)))


def _refuse_other_settings(plan: ResumePlan, folder: Path, run_json: RunJson) -> None:
    """The settings inherited from the damaged checkpoint's (undamaged) run.json must be those of its replacement."""
    planned, other = (RunConfig.from_dict(each["config"]) for each in (plan.run_json, run_json))
    names = [name for name in (*FIXED, *INHERITED, *RESUMED) if value_of(planned, name) != value_of(other, name)]
    if names:
        flags = " ".join(spell(other, name) for name in names)
        raise ConfigError(
            f"--load-fallback: {plan.folder} is damaged, and the checkpoint before it was trained with other settings "
            f"({flags}); load {folder} with --load-step {folder_step(folder)}"
        )


_SECTIONS = ("model", "data", "training", "optimizer")
"""Sections of the config that determine what is computed; layout and places may change."""

_EXPECTED = (
    "data_path",
    "data_cache_path",
    "accept_data_change",
    "tokenizer_model",
    "exit_interval",
    "exit_after_minutes",
    "max_skipped_steps",
    "eval_only",
    "eval_interval",
    "eval_interval_tokens",
    "real_tokens_per_row",
    "eval_iters",
    "eval_tokens",
    "log_interval",
    "profile_steps",
)
"""Settings of one launch, and paths, which may name the same files."""


def changed_settings(before: Mapping[str, Mapping[str, Any]], config: RunConfig) -> str:
    """Return the settings that differ from the checkpoint's, as flags; empty if there are none.

    A run does not resume bit for bit with another seed, batch size or schedule. The line shows a change that was made
    by mistake, such as an omitted flag.
    """
    settings = config.to_dict()
    differing = [
        f"{spell(config, name)} (was {before[option.section][name]})"
        for name, option in run_options().items()
        if option.section in _SECTIONS
        and name not in _EXPECTED
        and before.get(option.section, {}).get(name, settings[option.section][name]) != settings[option.section][name]
    ]
    return ", ".join(differing)
