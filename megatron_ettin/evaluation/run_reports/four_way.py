"""Encoder, decoder and what each was made into: the comparison of the Ettin paper, from the losses of four runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from megatron_ettin.checkpoint.folder.metrics_file import LossCurve
from megatron_ettin.config.objectives import OBJECTIVES, RELEASED_OBJECTIVES
from megatron_ettin.evaluation.run_reports.figures import finish_token_axes

KIND_COLORS = {
    "encoder": "#1f6fb4",
    "decoder": "#d1495b",
    "encoder from decoder": "#44bfa3",
    "decoder from encoder": "#e07b00",
}
"""Far apart for any common colour vision."""


@dataclass(frozen=True)
class LifeStretch:
    """One phase of a model's life, as its run left it."""

    phase: str
    objective: str
    steps: int
    tokens: int
    curve: LossCurve


@dataclass(frozen=True)
class FourWayModel:
    """One of the four kinds."""

    name: str
    """A key of the colours: encoder, decoder, encoder from decoder, decoder from encoder."""
    life: Sequence[LifeStretch]
    """First to last, with what it was made from."""
    measured: Mapping[str, Mapping[str, Any]]
    """By objective, what an evaluation told."""


def draw_four_lines(models: Sequence[FourWayModel], path: Path) -> None:
    """Draw validation losses over all tokens of a model's life, a panel an objective.

    A model that was trained last by the panel's objective is a line, one that was not is a cross at its end.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, objective in zip(figure.subplots(1, 2), RELEASED_OBJECTIVES, strict=True):
        for model in models:
            color, loss = KIND_COLORS[model.name], model.measured[objective]["validation_loss"]
            label = f"{model.name}, {loss:.2f}"
            if model.life[-1].objective == objective:
                tokens, losses = _validation_over_life(model, objective)
                axes.plot(tokens, losses, color=color, marker="o", markersize=3.5, label=label)
            else:
                end = sum(stretch.tokens for stretch in model.life)
                axes.plot([end], [loss], color=color, marker="x", markersize=8, linestyle="", label=label)
        axes.set_title(f"{OBJECTIVES[objective].targets} ({objective.upper()})")
        finish_token_axes(axes, "tokens of the model's life", "validation loss (nats a scored token)")
    figure.savefig(path, dpi=120)


def _validation_over_life(model: FourWayModel, objective: str) -> tuple[list[int], list[float]]:
    tokens, losses, before = [], [], 0
    for stretch in model.life:
        if stretch.objective == objective:
            tokens += [before + point.tokens for point in stretch.curve.validation]
            losses += [point.loss for point in stretch.curve.validation]
        before += stretch.tokens
    return tokens, losses


def four_way_text(models: Sequence[FourWayModel], figure: str) -> str:
    """Return the report as Markdown; ``figure`` is the picture's path as seen from it."""
    lines = ["# Encoders, decoders, and the way between them", "", *_result_lines(models)]
    lines += ["", f"![validation losses of the four models]({figure})", ""]
    lines += ["## Lives", "", *_life_lines(models)]
    return "\n".join(lines) + "\n"


def _result_lines(models: Sequence[FourWayModel]) -> list[str]:
    lines = [
        "Losses of the whole validation split, in nats a scored token. Every model is measured under both objectives:",
        "with the attention mask of the other kind, a model does what it was never trained to do.",
        "",
        f"| model | trained last by | {' | '.join(_result_columns())} |",
        f"|---|---|{'---|' * len(_result_columns())}",
    ]
    for model in models:
        cells = [cell for name in RELEASED_OBJECTIVES for cell in _result_cells(name, model.measured[name])]
        lines.append(f"| {model.name} | {model.life[-1].objective} | {' | '.join(cells)} |")
    return lines


def _result_columns() -> list[str]:
    """Return the headings of loss and quality metric under each objective."""
    metrics = {name: OBJECTIVES[name].quality_metric.replace("_", " ") for name in RELEASED_OBJECTIVES}
    return [heading for name, metric in metrics.items() for heading in (f"{name.upper()} loss", metric)]


def _result_cells(objective: str, measured: Mapping[str, Any]) -> tuple[str, str]:
    metric = OBJECTIVES[objective].quality_metric
    quality = f"{measured[metric]:.1%}" if metric == "masked_accuracy" else f"{measured[metric]:,.1f}"
    return f"{measured['validation_loss']:.3f}", quality


def _life_lines(models: Sequence[FourWayModel]) -> list[str]:
    lines = ["| model | phase | objective | steps | tokens |", "|---|---|---|---|---|"]
    for model in models:
        lines += [
            f"| {model.name} | {stretch.phase} | {stretch.objective} | {stretch.steps:,} | {stretch.tokens:,} |"
            for stretch in model.life
        ]
    return lines
