"""Pictures of results."""

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


def draw_losses(curves: Mapping[str, LossCurve], path: Path, *, levels: Mapping[str, float] | None = None) -> None:
    """Draw the losses of several runs over the tokens they were trained on.

    Args:
        curves: runs by the name they get in the legend; at most six.
        path: the PNG to write.
        levels: horizontal lines to compare with, by name, in nats.

    Raises:
        ValueError: there are more runs than colours to tell them apart.
    """
    if len(curves) > len(_COLORS):
        raise ValueError(f"{len(curves)} runs in one picture: {len(_COLORS)} can be told apart")
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
    finish_token_axes(axes, "tokens", "loss (nats a scored token)")
    figure.savefig(path, dpi=120)


def finish_token_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Label axes whose horizontal one counts tokens, and give them the look of all pictures."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.xaxis.set_major_formatter(TokenFormatter(sep=""))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


class TokenFormatter(EngFormatter):
    """Thousands as K, M, B and T, as they are said everywhere else here; engineers have k and G."""

    ENG_PREFIXES = {**EngFormatter.ENG_PREFIXES, 3: "K", 9: "B"}  # noqa: RUF012


_COLOR = "#1f6fb4"


@dataclass(frozen=True)
class PhaseCurve:
    """The learning rate over one phase."""

    title: str
    """What is told above its panel."""
    unit: str
    """What its time counts: tokens or steps."""
    times: Sequence[float]
    rates: Sequence[float]


def draw_phases(title: str, phases: Sequence[PhaseCurve], path: Path) -> None:
    """Draw one panel a phase, side by side with a common scale of rates, into a PNG.

    Phases differ in length by a hundred times, so each has a time axis of its own.
    """
    figure = Figure(figsize=(1.2 + 2.6 * len(phases), 3.4), layout="constrained")
    panels = figure.subplots(1, len(phases), sharey=True, squeeze=False)[0]
    for axes, phase in zip(panels, phases, strict=True):
        axes.plot(phase.times, phase.rates, color=_COLOR, linewidth=1.8)
        axes.fill_between(phase.times, phase.rates, color=_COLOR, alpha=0.08)
        axes.set_title(phase.title, fontsize=9)
        axes.set_xlabel(phase.unit)
        axes.set_xlim(0, phase.times[-1])
        axes.xaxis.set_major_formatter(TokenFormatter(sep=""))
        axes.grid(alpha=0.25)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel("learning rate")
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=120)
