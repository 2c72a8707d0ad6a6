"""The counters and the lineage of a run, and how ``run.json`` stores them. Standard library only."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from megatron_ettin.checkpoint.folder.layout import FORMAT_VERSION
from megatron_ettin.config.run import RunConfig

_PACKAGES = ("megatron-ettin", "megatron-core", "torch", "numpy")


@dataclass
class PhaseRecord:
    """One phase of a model's training under one objective."""

    objective: str
    steps: int
    tokens: int
    """Real (unpadded) tokens."""
    parent: str
    """The checkpoint or model that it started from; empty for fresh weights."""
    phase: str = "pretrain"
    """Of the recipe."""


@dataclass
class TrainingState:
    """Counters that continue over launches; each phase starts with them at 0."""

    step: int = 0
    consumed_samples: int = 0
    """Rows, over all ranks: the position in the training order."""
    consumed_tokens: int = 0
    """Real (unpadded) tokens, over all ranks."""
    lineage: list[PhaseRecord] = field(default_factory=list)
    """All phases up to the current one, which is last."""
    validation_loss: float | None = None
    """The latest one."""
    skipped_steps: int = 0
    """Of all steps; a skipped step counts as a step in every other way."""
    skipped_in_a_row: int = 0
    """Up to the latest step."""
    recent_losses: list[float] = field(default_factory=list)
    """Of the latest steps, oldest first; kept only for --skip-loss-spikes."""
    data_order: dict[str, Any] = field(default_factory=dict)
    """Everything that decides which tokens a row number stands for, by cause."""
    data_changes: list[dict[str, Any]] = field(default_factory=list)
    """Where --accept-data-change continued with other data: the step, and each change with both values."""
    source_rows: list[int] = field(default_factory=list)
    """Rows of each source of a blend."""

    @classmethod
    def start(
        cls, objective: str, parent: str = "", lineage: Sequence[PhaseRecord] = (), phase: str = "pretrain"
    ) -> TrainingState:
        """Return the state of a phase at its first step; ``lineage`` has the phases before it."""
        return cls(lineage=[*lineage, PhaseRecord(objective, 0, 0, parent, phase)])

    @classmethod
    def from_run_json(cls, run_json: Mapping[str, Any]) -> TrainingState:
        """Return the counters that a ``run.json`` stores."""
        return cls(
            step=run_json["step"],
            consumed_samples=run_json["consumed_samples"],
            consumed_tokens=run_json["consumed_tokens"],
            lineage=[PhaseRecord(**record) for record in run_json["lineage"]],
            validation_loss=run_json.get("validation_loss"),
            skipped_steps=run_json.get("skipped_steps", 0),
            skipped_in_a_row=run_json.get("skipped_in_a_row", 0),
            recent_losses=run_json.get("recent_losses", []),
            data_order=run_json.get("data_order", {}),
            data_changes=run_json.get("data_changes", []),
            source_rows=run_json.get("source_rows", []),
        )

    def count_step(self, samples: int, tokens: int) -> None:
        """Count one more step."""
        self.step += 1
        self.consumed_samples += samples
        self.consumed_tokens += tokens
        self.lineage[-1].steps += 1
        self.lineage[-1].tokens += tokens


@dataclass(frozen=True)
class ParallelLayout:
    """The ranks that wrote a checkpoint."""

    device: str
    tp_size: int
    pp_size: int
    dp_size: int

    @classmethod
    def from_run_json(cls, run_json: Mapping[str, Any]) -> ParallelLayout | None:
        """Return the layout that a ``run.json`` stores, or None if no ranks wrote it (an imported model)."""
        layout = run_json.get("layout")
        return cls(**layout) if layout else None


def describe_run(config: RunConfig, state: TrainingState, layout: ParallelLayout) -> dict[str, Any]:
    """Return the content of ``run.json``."""
    return {
        "format_version": FORMAT_VERSION,
        "step": state.step,
        "consumed_samples": state.consumed_samples,
        "consumed_tokens": state.consumed_tokens,
        "objective": config.training.objective,
        "validation_loss": state.validation_loss,
        "skipped_steps": state.skipped_steps,
        "skipped_in_a_row": state.skipped_in_a_row,
        "recent_losses": state.recent_losses,
        "data_order": state.data_order,
        "data_changes": state.data_changes,
        "source_rows": state.source_rows,
        "lineage": [asdict(record) for record in state.lineage],
        "layout": asdict(layout),
        "config": config.to_dict(),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # run from a source tree
            continue
    return versions
