"""Pictures of results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from megatron_ettin.evaluation.loss_curve import LossCurve

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
