"""Where a launch begins: fresh weights, or what --load names."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed

from megatron_ettin.checkpoint.folder.layout import (
    DamagedCheckpoint,
    check_large_files,
    check_small_files,
    folder_step,
    half_written_folders,
    is_one_step,
    read_run_json,
    resolve_checkpoint,
    set_later_aside,
    step_folder_name,
)
from megatron_ettin.checkpoint.load import LoadResult, load_afresh, load_training
from megatron_ettin.checkpoint.state import TrainingState, state_from_description
from megatron_ettin.config.fields import run_options, spell, value_of
from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import ConfigError
from megatron_ettin.runtime.process import seed_process
from megatron_ettin.runtime.ranks import Ranks
from megatron_ettin.train.build import Training
from megatron_ettin.train.preflight.checkpoint import Continuation, continuation, passed_over, trained_as
from megatron_ettin.train.preflight.inherited import FIXED, INHERITED


def take_up(training: Training) -> LoadResult:
    """Fill weights, optimizer and random states from --load as far as this run goes on from it; collective.

    Raises:
        ConfigError: the checkpoint is damaged, or its tensors are not those of this model.
    """
    settings, places = training.config.training, training.config.checkpoint
    if not places.load:
        return LoadResult(TrainingState.start(settings.objective, phase=settings.phase), ())
    folder, notes = find_undamaged(training.config, training.ranks)
    described = read_run_json(folder)
    kind = continuation(described, training.config)
    if kind is Continuation.RESUME:
        return _resume(training, folder, described, notes)
    if kind is Continuation.NEXT_PHASE:
        notes += _load(training, folder, described).notes
        seed_process(settings.seed, training.ranks)  # dropout does not go on with the former phase's draws
    else:
        load_afresh(folder, training.parts)
    former = state_from_description(described).lineage
    state = TrainingState.start(settings.objective, parent=str(folder), former=former, phase=settings.phase)
    was = "--objective {} --phase {}".format(*trained_as(described))
    begun = f"--objective {settings.objective} --phase {settings.phase} begins from {folder} ({was})"
    return LoadResult(state, (f"{begun}; taken besides the weights: {kind.value}", *notes))


def _resume(training: Training, folder: Path, described: dict[str, Any], before: tuple[str, ...]) -> LoadResult:
    """Go on to the bit; where the checkpoint lies in ``--save``, it becomes the latest step there."""
    save = Path(training.config.checkpoint.save)
    found = _load(training, folder, described)
    notes = [*before, f"loaded {folder}: step {found.state.step}, {found.state.consumed_tokens:,} tokens", *found.notes]
    changed = changed_settings(described["config"], training.config)
    notes += [f"changed since then: {changed}"] * bool(changed)
    if training.ranks.is_main and folder.resolve().parent == save.resolve():
        notes += [f"half-written, not a checkpoint: {path}" for path in half_written_folders(save)]
        notes += [f"set aside, from a later step: {path}" for path in set_later_aside(save, described["step"])]
    return LoadResult(found.state, tuple(notes))


def _load(training: Training, folder: Path, described: dict[str, Any]) -> LoadResult:
    return load_training(folder, described, training.parts, training.config.training.seed)


def find_undamaged(config: RunConfig, ranks: Ranks) -> tuple[Path, tuple[str, ...]]:
    """Return the folder that ``--load`` names and notes of damaged ones passed over; collective over the world.

    Raises:
        DamagedCheckpoint: on all ranks, when it is damaged and no other may be taken or is there.
        ConfigError: the one that would be taken instead was trained with other settings.
    """
    places, check = config.checkpoint, partial(_check_together, ranks=ranks)
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


_SECTIONS = ("model", "data", "training", "optimizer")
"""Those that decide what is computed; the layout is told of elsewhere, places are expected to change."""

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
    "log_interval",
    "profile_steps",
)
"""Settings of a launch, and paths, which may name the same files."""


def changed_settings(before: dict[str, dict[str, Any]], config: RunConfig) -> str:
    """Return the settings that differ from a checkpoint's config as flags, or nothing where none does.

    A run does not go on to the bit with another seed, batch or schedule; whoever changes them by mistake, by leaving a
    flag away, should see it.
    """
    differing = [
        f"{spell(config, name)} (was {before[option.section][name]})"
        for name, option in run_options().items()
        if option.section in _SECTIONS
        and name not in _EXPECTED
        and before.get(option.section, {}).get(name, value_of(config, name)) != value_of(config, name)
    ]
    return ", ".join(differing)
