"""The checkpoints of a model's runs, as revisions of its release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.checkpoint.folder.layout import list_steps, read_run_json, resolve_checkpoint, step_folder_name
from megatron_ettin.checkpoint.folder.metrics_file import Record, metrics_at, read_metrics
from megatron_ettin.config.training import PHASES, REVISION_PREFIXES
from megatron_ettin.convert.training_facts import phase_of
from megatron_ettin.errors import ConfigError


@dataclass(frozen=True)
class Revision:
    """One checkpoint to be released."""

    name: str
    """Prefix of the phase, and the step within the phase: ``step590532``."""
    phase: str
    step: int
    tokens: int
    """Real tokens of the phase."""
    learning_rate: float | None
    """As last logged; None if the run has no metrics."""
    loss: float | None
    """Training loss, as last logged."""
    checkpoint: Path

    @property
    def order(self) -> tuple[int, int]:
        """Key that sorts by phase and step."""
        return PHASES.index(self.phase), self.step


def find_revisions(runs: Sequence[Path]) -> tuple[Revision, ...]:
    """Return every complete checkpoint of the runs in the order of training.

    Args:
        runs: ``--save`` folders: one for each phase, or a single one.

    Raises:
        ConfigError: a folder has no complete checkpoint, one is damaged, two get the same name, or objectives differ.
    """
    revisions: dict[str, Revision] = {}
    objectives: dict[str, Path] = {}
    for run in runs:
        records = read_metrics(run)
        for folder in _checkpoints(run):
            description = read_run_json(folder)
            revision = _revision(folder, description, records)
            other = revisions.setdefault(revision.name, revision)
            if other is not revision:
                raise ConfigError(f"--load {folder}: is revision {revision.name}, and so is {other.checkpoint}")
            objectives[description["objective"]] = folder
    if len(objectives) > 1:
        differing = ", ".join(f"{folder} is {objective}" for objective, folder in objectives.items())
        raise ConfigError(f"--load: a release contains models of one objective; {differing}")
    return tuple(sorted(revisions.values(), key=lambda revision: revision.order))


def _checkpoints(run: Path) -> list[Path]:
    steps = list_steps(run)
    if not steps:
        return [resolve_checkpoint(run)]  # a single step's folder, or the reason why there is no checkpoint
    return [resolve_checkpoint(run / step_folder_name(step)) for step in steps]


def _revision(folder: Path, description: Mapping[str, Any], records: Sequence[Record]) -> Revision:
    phase = phase_of(description)
    if phase not in REVISION_PREFIXES:
        raise ConfigError(f"--load {folder}: phase {phase!r} is none of {', '.join(REVISION_PREFIXES)}")
    step = description["step"]
    metrics = metrics_at(records, step)
    return Revision(
        name=f"{REVISION_PREFIXES[phase]}{step}",
        phase=phase,
        step=step,
        tokens=description["consumed_tokens"],
        learning_rate=metrics.get("learning_rate"),
        loss=metrics.get("loss"),
        checkpoint=folder,
    )
