"""Load a checkpoint into a model and its optimizer, under any parallel layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed
from megatron.core import dist_checkpointing
from megatron.core.transformer.module import MegatronModule

from megatron_ettin.checkpoint.folder.layout import STATE_FOLDER
from megatron_ettin.checkpoint.folder.lock import held
from megatron_ettin.checkpoint.folder.state import ParallelLayout, TrainingState
from megatron_ettin.checkpoint.rank_state import (
    RANDOM_STATE_KEY,
    TrainedParts,
    random_state_entry,
    restore_random_state,
)
from megatron_ettin.checkpoint.save import OPTIMIZER_STEPS_KEY
from megatron_ettin.checkpoint.tensors import (
    OPTIMIZER_PREFIX,
    copy_weights,
    load_fresh_entries,
    load_training_entries,
    weight_entries,
)
from megatron_ettin.errors import ConfigError
from megatron_ettin.runtime.process import seed_process


@dataclass(frozen=True)
class LoadResult:
    """The state that training continues from."""

    state: TrainingState
    notes: tuple[str, ...]
    """Lines for the log."""


def load_training(folder: Path, run_json: Mapping[str, Any], parts: TrainedParts, seed: int) -> LoadResult:
    """Restore model, optimizer and random states from one checkpoint; collective over the world.

    Under the layout that wrote the checkpoint, training resumes bit for bit. Under another one, dropout draws from
    ``seed`` and the step. A checkpoint of weights alone (an imported model) gets a new optimizer and starts at step 0.

    Args:
        folder: the checkpoint.
        run_json: its ``run.json``.
        parts: the objects to fill.
        seed: of the run.

    Raises:
        ConfigError: the checkpoint's tensors are not those of this model.
    """
    state = TrainingState.from_run_json(run_json)
    steps = _optimizer_steps(folder)
    if steps is None:
        load_with_fresh_optimizer(folder, parts)
        fresh = TrainingState.start(run_json["objective"], parent=str(folder), lineage=state.lineage)
        return LoadResult(fresh, (f"{folder} has weights only: a fresh optimizer starts at step 0",))
    same_layout = ParallelLayout.from_run_json(run_json) == parts.layout
    objects = {RANDOM_STATE_KEY: random_state_entry(parts.ranks)} if same_layout else {}
    loaded = load_training_entries(
        parts.model, parts.optimizer, steps, lambda entries: _read(folder, entries | objects)
    )
    if same_layout:
        restore_random_state(loaded[RANDOM_STATE_KEY])
        return LoadResult(state, ())
    seed_process(seed + state.step, parts.ranks)
    return LoadResult(state, (f"{folder} was written under another layout: dropout continues with new draws",))


def load_with_fresh_optimizer(folder: Path, parts: TrainedParts) -> None:
    """Load the weights and reset the optimizer to step 0; collective over the world.

    Raises:
        ConfigError: the checkpoint's tensors are not those of this model.
    """
    load_fresh_entries(parts.model, parts.optimizer, lambda entries: _read(folder, entries))


def load_weights(folder: Path, model: MegatronModule) -> None:
    """Load the weights into a model that is not trained; collective over the world.

    Raises:
        ConfigError: the checkpoint's tensors are not those of this model.
    """
    weights = weight_entries(model)
    copy_weights(weights, _read(folder, weights))


def _read(folder: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return the wanted tensors and objects of a checkpoint, by name."""
    state = str(folder / STATE_FOLDER)
    _check_names(folder, wanted, stored=set(dist_checkpointing.load_tensors_metadata(state)))
    with held(folder):
        loaded = dist_checkpointing.load(wanted, state)
    assert isinstance(loaded, dict)
    return loaded


def _check_names(folder: Path, wanted: dict[str, Any], stored: set[str]) -> None:
    """Refuse unless every entry that a rank wants is stored, and every stored weight is wanted by a rank."""
    of_all_ranks: list[set[str]] = [set()] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(of_all_ranks, set(wanted) - {RANDOM_STATE_KEY})
    names = set().union(*of_all_ranks)
    missing = names - stored
    unexpected = {name for name in stored - names if not name.startswith(OPTIMIZER_PREFIX)}
    if missing and all(name.startswith(OPTIMIZER_PREFIX) for name in missing) and not unexpected:
        raise ConfigError(
            f"--load {folder}: was written by another optimizer, it lacks {_few(missing)}; resume with the --optimizer "
            "that wrote it, or load the weights alone with --phase cross"
        )
    if missing or unexpected:
        differences = [f"lacks {_few(missing)}"] * bool(missing) + [f"also has {_few(unexpected)}"] * bool(unexpected)
        raise ConfigError(f"--load {folder}: has other tensors than this model, it {' and '.join(differences)}")


def _optimizer_steps(folder: Path) -> int | None:
    """Return the number of steps of the stored optimizer state, or None if there is no such state."""
    common = dist_checkpointing.load_common_state_dict(str(folder / STATE_FOLDER))
    steps = common.get(OPTIMIZER_STEPS_KEY)
    return None if steps is None else int(steps)


def _few(names: set[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
