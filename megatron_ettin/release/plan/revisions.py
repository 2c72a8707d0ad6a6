"""Which checkpoints of which runs become which revisions of a released model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.checkpoint.folder.layout import list_steps, read_run_json, resolve_checkpoint, step_folder_name
from megatron_ettin.checkpoint.folder.metrics_file import Record, metrics_at, read_metrics
from megatron_ettin.convert.training_facts import phase_of
from megatron_ettin.errors import ConfigError

PHASE_PREFIXES: Mapping[str, str] = {"pretrain": "step", "extend": "ext", "decay": "decay", "cross": "cross"}
"""What a revision's name begins with, by phase, in the order in which phases follow each other."""


@dataclass(frozen=True)
class Revision:
    """One checkpoint on its way to be released."""

    name: str
    """Prefix of the phase and steps in it: ``step590532``."""
    phase: str
    step: int
    tokens: int
    """Real tokens of the phase."""
    learning_rate: float | None
    """As last logged; None where the run has no metrics."""
    loss: float | None
    """Of training, as last logged."""
    checkpoint: Path

    @property
    def order(self) -> tuple[int, int]:
        """Sorts by phase and step."""
        return list(PHASE_PREFIXES).index(self.phase), self.step


def find_revisions(runs: Sequence[Path]) -> tuple[Revision, ...]:
    """Return every whole checkpoint of the runs in the order of training.

    Args:
        runs: ``--save`` folders: one for each phase, or a single one.

    Raises:
        ConfigError: a folder holds no whole checkpoint, one is damaged, two would get one name, or objectives differ.
    """
    found: dict[str, Revision] = {}
    objectives: dict[str, Path] = {}
    for run in runs:
        records = read_metrics(run)
        for folder in _checkpoints(run):
            described = read_run_json(folder)
            revision = _revision(folder, described, records)
            other = found.setdefault(revision.name, revision)
            if other is not revision:
                raise ConfigError(f"--load {folder}: is revision {revision.name}, as {other.checkpoint} is")
            objectives[described["objective"]] = folder
    if len(objectives) > 1:
        told = ", ".join(f"{folder} is {objective}" for objective, folder in objectives.items())
        raise ConfigError(f"--load: a release holds models of one objective; {told}")
    return tuple(sorted(found.values(), key=lambda revision: revision.order))


def _checkpoints(run: Path) -> list[Path]:
    steps = list_steps(run)
    if not steps:
        return [resolve_checkpoint(run)]  # one step's folder, or the reason why there is nothing
    return [resolve_checkpoint(run / step_folder_name(step)) for step in steps]


def _revision(folder: Path, described: Mapping[str, Any], records: Sequence[Record]) -> Revision:
    phase = phase_of(described)
    if phase not in PHASE_PREFIXES:
        raise ConfigError(f"--load {folder}: phase {phase!r} is none of {', '.join(PHASE_PREFIXES)}")
    step = described["step"]
    figures = metrics_at(records, step)
    return Revision(
        name=f"{PHASE_PREFIXES[phase]}{step}",
        phase=phase,
        step=step,
        tokens=described["consumed_tokens"],
        learning_rate=figures.get("learning_rate"),
        loss=figures.get("loss"),
        checkpoint=folder,
    )
