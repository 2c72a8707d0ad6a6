"""Where a launch begins: fresh weights, or what --load names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron_ettin.checkpoint.layout import half_written_folders, read_run_json, set_later_aside
from megatron_ettin.checkpoint.load import LoadResult, load_afresh, load_training
from megatron_ettin.checkpoint.state import TrainingState, state_from_description
from megatron_ettin.runtime.seeds import seed_process
from megatron_ettin.train.build import Training
from megatron_ettin.train.changes import changed_settings
from megatron_ettin.train.continuation import Continuation, continuation, trained_as
from megatron_ettin.train.verification import find_undamaged


def take_up(training: Training) -> LoadResult:
    """Fill weights, optimizer and random states from --load as far as this run goes on from it; collective.

    Raises:
        ConfigError: the checkpoint is damaged, or its tensors are not those of this model.
    """
    settings, places = training.run.training, training.run.checkpoint
    if not places.load:
        return LoadResult(TrainingState.start(settings.objective, phase=settings.phase), ())
    folder, notes = find_undamaged(training.run, training.ranks)
    described = read_run_json(folder)
    kind = continuation(described, training.run)
    if kind is Continuation.RESUME:
        return _resume(training, folder, described, notes)
    if kind is Continuation.NEXT_PHASE:
        notes += _load(training, folder).notes
        seed_process(settings.seed, training.ranks)  # dropout does not go on with the former phase's draws
    else:
        load_afresh(folder, training.model, training.optimizer)
    former = state_from_description(described).lineage
    state = TrainingState.start(settings.objective, parent=str(folder), former=former, phase=settings.phase)
    was = "--objective {} --phase {}".format(*trained_as(described))
    begun = f"--objective {settings.objective} --phase {settings.phase} begins from {folder} ({was})"
    return LoadResult(state, (f"{begun}; taken besides the weights: {kind.value}", *notes))


def _resume(training: Training, folder: Path, described: dict[str, Any], before: tuple[str, ...]) -> LoadResult:
    """Go on to the bit; where the checkpoint lies in ``--save``, it becomes the latest step there."""
    save = Path(training.run.checkpoint.save)
    found = _load(training, folder)
    notes = [*before, f"loaded {folder}: step {found.state.step}, {found.state.consumed_tokens:,} tokens", *found.notes]
    changed = changed_settings(described["config"], training.run)
    notes += [f"changed since then: {changed}"] * bool(changed)
    if training.ranks.is_main and folder.resolve().parent == save.resolve():
        notes += [f"half-written, not a checkpoint: {path}" for path in half_written_folders(save)]
        notes += [f"set aside, from a later step: {path}" for path in set_later_aside(save, described["step"])]
    return LoadResult(found.state, tuple(notes))


def _load(training: Training, folder: Path) -> LoadResult:
    seed = training.run.training.seed
    return load_training(folder, training.model, training.optimizer, seed, training.ranks, training.device)
