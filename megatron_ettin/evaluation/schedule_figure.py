"""A picture of learning rates over the phases of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from megatron_ettin.evaluation.figures import TokenFormatter

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
