"""Figures of runs: loss curves over tokens, and the learning rate over the phases of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from megatron_ettin.checkpoint.folder.metrics_file import LossCurve

_COLORS = ("#1f6fb4", "#d1495b", "#3a7d44", "#8a5fbf", "#008b8b", "#4a4e69")
_LEVEL_COLOR = "#e07b00"
_DPI = 120


class TokenFormatter(EngFormatter):
    """Formats thousands as K, M, B and T; the engineering prefixes would be k, M, G and T."""

    ENG_PREFIXES = {**EngFormatter.ENG_PREFIXES, 3: "K", 9: "B"}  # noqa: RUF012


@dataclass(frozen=True)
class PhaseCurve:
    """The learning rate over one phase."""

    title: str
    unit: str
    """Unit of ``times``: tokens or steps."""
    times: Sequence[float]
    rates: Sequence[float]


def draw_losses(curves: Mapping[str, LossCurve], path: Path, *, levels: Mapping[str, float] | None = None) -> None:
    """Draw training and validation losses of several runs over tokens into a PNG.

    Args:
        curves: at most six runs by their label.
        path: the PNG to write.
        levels: horizontal reference lines by label, in nats.

    Raises:
        ValueError: there are more runs than distinct colours.
    """
    if len(curves) > len(_COLORS):
        raise ValueError(f"{len(curves)} runs in one figure: at most {len(_COLORS)} have distinct colours")
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for (name, curve), color in zip(curves.items(), _COLORS, strict=False):
        training, validation = curve.training, curve.validation
        axes.plot(
            [point.tokens for point in training],
            [point.loss for point in training],
            color=color,
            alpha=0.4,
            linewidth=1,
            label=f"{name}, training",
        )
        if validation:
            axes.plot(
                [point.tokens for point in validation],
                [point.loss for point in validation],
                color=color,
                marker="o",
                markersize=4,
                linewidth=1.6,
                label=f"{name}, validation {validation[-1].loss:.2f}",
            )
    for name, level in (levels or {}).items():
        axes.axhline(level, color=_LEVEL_COLOR, linestyle="--", linewidth=1.6, label=f"{name} {level:.2f}")
    label_token_axes(axes, "tokens", "loss (nats a scored token)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=_DPI)


def draw_phases(title: str, phases: Sequence[PhaseCurve], path: Path) -> None:
    """Draw the learning rate into a PNG, one panel per phase with a common vertical scale.

    Each panel has its own time axis, since the lengths of phases differ by a factor of a hundred.
    """
    figure = Figure(figsize=(1.2 + 2.6 * len(phases), 3.4), layout="constrained")
    panels = figure.subplots(1, len(phases), sharey=True, squeeze=False)[0]
    for axes, phase in zip(panels, phases, strict=True):
        axes.plot(phase.times, phase.rates, color=_COLORS[0], linewidth=1.8)
        axes.fill_between(phase.times, phase.rates, color=_COLORS[0], alpha=0.08)
        axes.set_title(phase.title, fontsize=9)
        axes.set_xlim(0, phase.times[-1])
        label_token_axes(axes, phase.unit, "learning rate" if axes is panels[0] else "")
    panels[0].set_ylim(bottom=0)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=_DPI)


def label_token_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Label axes over tokens or steps in the common style."""
    label_axes(axes, x_label, y_label)
    axes.xaxis.set_major_formatter(TokenFormatter(sep=""))


def label_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Label axes in the style that all figures share."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
