"""Report of an encoder, a decoder and the two models made from them: the comparison of the Ettin paper, by losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from megatron_ettin.checkpoint.folder.metrics_file import LossCurve
from megatron_ettin.config.objectives import OBJECTIVES, RELEASED_OBJECTIVES
from megatron_ettin.evaluation.run_reports.figures import label_token_axes

KIND_COLORS = {
    "encoder": "#1f6fb4",
    "decoder": "#d1495b",
    "encoder from decoder": "#44bfa3",
    "decoder from encoder": "#e07b00",
}
"""Distinct for all common forms of colour vision."""


@dataclass(frozen=True)
class FinishedPhase:
    """One phase of a model's training."""

    phase: str
    objective: str
    steps: int
    tokens: int
    curve: LossCurve


@dataclass(frozen=True)
class FourWayModel:
    """One of the four kinds."""

    name: str
    """A key of :data:`KIND_COLORS`."""
    phases: Sequence[FinishedPhase]
    """In the order of training, those of the model that it was made from included."""
    measured: Mapping[str, Mapping[str, Any]]
    """By objective, the output of ``--eval-only``."""


def draw_four_lines(models: Sequence[FourWayModel], path: Path) -> None:
    """Draw validation losses over the tokens of all phases, one panel per objective.

    A model whose last phase had the panel's objective is a line; the others are a cross at their end.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, objective in zip(figure.subplots(1, 2), RELEASED_OBJECTIVES, strict=True):
        for model in models:
            color, loss = KIND_COLORS[model.name], model.measured[objective]["validation_loss"]
            label = f"{model.name}, {loss:.2f}"
            if model.phases[-1].objective == objective:
                tokens, losses = _validation_curve(model, objective)
                axes.plot(tokens, losses, color=color, marker="o", markersize=3.5, label=label)
            else:
                end = sum(phase.tokens for phase in model.phases)
                axes.plot([end], [loss], color=color, marker="x", markersize=8, linestyle="", label=label)
        axes.set_title(f"{OBJECTIVES[objective].targets} ({objective.upper()})")
        label_token_axes(axes, "tokens of all phases", "validation loss (nats a scored token)")
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def _validation_curve(model: FourWayModel, objective: str) -> tuple[list[int], list[float]]:
    """Return tokens since the first phase and losses of the phases with an objective."""
    tokens, losses, before = [], [], 0
    for phase in model.phases:
        if phase.objective == objective:
            tokens += [before + point.tokens for point in phase.curve.validation]
            losses += [point.loss for point in phase.curve.validation]
        before += phase.tokens
    return tokens, losses


def four_way_text(models: Sequence[FourWayModel], figure: str) -> str:
    """Return the report as Markdown; ``figure`` is the path of the figure relative to it."""
    lines = ["# Encoders, decoders, and training across objectives", "", *_result_lines(models)]
    lines += ["", f"![validation losses of the four models]({figure})", ""]
    lines += ["## Training phases", "", *_phase_lines(models)]
    return "\n".join(lines) + "\n"


def _result_lines(models: Sequence[FourWayModel]) -> list[str]:
    lines = [
        "Losses of the whole validation split, in nats a scored token. Every model is measured under both objectives;",
        "under the objective of the other kind, a model uses an attention mask that it was not trained with.",
        "",
        f"| model | last objective | {' | '.join(_result_columns())} |",
        f"|---|---|{'---|' * len(_result_columns())}",
    ]
    for model in models:
        cells = [cell for name in RELEASED_OBJECTIVES for cell in _result_cells(name, model.measured[name])]
        lines.append(f"| {model.name} | {model.phases[-1].objective} | {' | '.join(cells)} |")
    return lines


def _result_columns() -> list[str]:
    """Return the headings of loss and quality metric under each objective."""
    metrics = {name: OBJECTIVES[name].quality_metric.replace("_", " ") for name in RELEASED_OBJECTIVES}
    return [heading for name, metric in metrics.items() for heading in (f"{name.upper()} loss", metric)]


def _result_cells(objective: str, measured: Mapping[str, Any]) -> tuple[str, str]:
    metric = OBJECTIVES[objective].quality_metric
    quality = f"{measured[metric]:.1%}" if metric == "masked_accuracy" else f"{measured[metric]:,.1f}"
    return f"{measured['validation_loss']:.3f}", quality


def _phase_lines(models: Sequence[FourWayModel]) -> list[str]:
    lines = ["| model | phase | objective | steps | tokens |", "|---|---|---|---|---|"]
    for model in models:
        lines += [
            f"| {model.name} | {phase.phase} | {phase.objective} | {phase.steps:,} | {phase.tokens:,} |"
            for phase in model.phases
        ]
    return lines
