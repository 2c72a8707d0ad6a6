"""How far a training run has come: what ``run.json`` tells beside the config."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from megatron.core.optimizer import MegatronOptimizer
from megatron.core.transformer.module import MegatronModule

from megatron_ettin.checkpoint.folder.layout import FORMAT_VERSION
from megatron_ettin.config.run import RunConfig
from megatron_ettin.runtime.device import Device
from megatron_ettin.runtime.ranks import Ranks

_PACKAGES = ("megatron-ettin", "megatron-core", "torch", "numpy")


@dataclass(frozen=True)
class TrainedParts:
    """The objects of one rank whose state a checkpoint stores, and where they live."""

    model: MegatronModule
    """This rank's pipeline stage, without its wrappers."""
    optimizer: MegatronOptimizer
    ranks: Ranks
    device: Device


@dataclass
class Stretch:
    """A part of a model's life: one phase under one objective."""

    objective: str
    steps: int
    tokens: int
    """Real (unpadded) tokens."""
    parent: str
    """The checkpoint or model it began from; empty for fresh weights."""
    phase: str = "pretrain"
    """Of the recipe."""


@dataclass
class TrainingState:
    """Counters that go on over launches; each phase begins with them at 0."""

    step: int = 0
    consumed_samples: int = 0
    """Rows, over all ranks: the position in the training order."""
    consumed_tokens: int = 0
    """Real (unpadded) tokens, over all ranks."""
    lineage: list[Stretch] = field(default_factory=list)
    """The last one is under way."""
    validation_loss: float | None = None
    """The latest one."""
    skipped_steps: int = 0
    """Of all steps; a step that was skipped counts in every other way."""
    skipped_in_a_row: int = 0
    """Up to the latest step."""
    recent_losses: list[float] = field(default_factory=list)
    """Of the latest steps, oldest first; kept only for --skip-loss-spikes."""
    data_order: dict[str, Any] = field(default_factory=dict)
    """What decides which tokens a row number means, by cause."""
    data_changes: list[dict[str, Any]] = field(default_factory=list)
    """Where --accept-data-change went on with other data: step, and what changed from what to what."""
    source_rows: list[int] = field(default_factory=list)
    """Rows of each source of a blend."""

    @classmethod
    def start(
        cls, objective: str, parent: str = "", previous: list[Stretch] | None = None, phase: str = "pretrain"
    ) -> TrainingState:
        """Return the state of a phase at its first step."""
        return cls(lineage=[*(previous or ()), Stretch(objective, 0, 0, parent, phase)])

    def count_step(self, samples: int, tokens: int) -> None:
        """Note one more step."""
        self.step += 1
        self.consumed_samples += samples
        self.consumed_tokens += tokens
        self.lineage[-1].steps += 1
        self.lineage[-1].tokens += tokens


@dataclass(frozen=True)
class Layout:
    """Over which ranks, of which kind, a checkpoint was written."""

    device: str
    tp_size: int
    pp_size: int
    dp_size: int

    @classmethod
    def of(cls, ranks: Ranks, device: str) -> Layout:
        """Return the layout that these ranks form."""
        return cls(device, ranks.tp_size, ranks.pp_size, ranks.dp_size)


def describe_run(config: RunConfig, state: TrainingState, layout: Layout) -> dict[str, Any]:
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
        "lineage": [asdict(stretch) for stretch in state.lineage],
        "layout": asdict(layout),
        "config": config.to_dict(),
        "versions": _versions(),
    }


def state_from_description(described: Mapping[str, Any]) -> TrainingState:
    """Return the counters that a ``run.json`` tells."""
    return TrainingState(
        step=described["step"],
        consumed_samples=described["consumed_samples"],
        consumed_tokens=described["consumed_tokens"],
        lineage=[Stretch(**stretch) for stretch in described["lineage"]],
        validation_loss=described.get("validation_loss"),
        skipped_steps=described.get("skipped_steps", 0),
        skipped_in_a_row=described.get("skipped_in_a_row", 0),
        recent_losses=described.get("recent_losses", []),
        data_order=described.get("data_order", {}),
        data_changes=described.get("data_changes", []),
        source_rows=described.get("source_rows", []),
    )


def layout_from_description(described: Mapping[str, Any]) -> Layout | None:
    """Return the layout that a ``run.json`` tells, or None where no ranks wrote it (an imported model)."""
    layout = described.get("layout")
    return Layout(**layout) if layout else None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source tree
            continue
    return found
