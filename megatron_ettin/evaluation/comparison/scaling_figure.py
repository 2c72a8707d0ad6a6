"""Scores of the four kinds over model size, one panel a suite: the paper's Figure 1."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from megatron_ettin.evaluation.comparison.look import LOOKS, QUIET, finish_axes, say_nothing_here
from megatron_ettin.evaluation.comparison.models import ComparedModel, size_groups
from megatron_ettin.evaluation.comparison.published import SIZES, PublishedPanel, size_name
from megatron_ettin.evaluation.comparison.scores import Panel
from megatron_ettin.evaluation.models.kinds import KINDS, Kind

_PUBLISHED_ALPHA = 0.38
_BESIDE, _BESIDE_ONE_SIZE = 0.014, 0.06
"""How far apart kinds of one size stand, as a share of the axis; where there is but one size, there is more room."""
_TICKS_APART = 0.075
"""The least distance of two sizes on the axis that are both named, as a share of its width."""


def draw_scaling(panels: Sequence[Panel], models: Sequence[ComparedModel]) -> Figure:
    """Draw the scores of all models over their parameters, and the paper's lightly beside them.

    The paper's lines share an axis with one's own only where the tasks are the same. Where they are others, they stand
    in a row of their own below: scores of different tasks on one axis would look like a comparison.

    Args:
        panels: one for each suite.
        models: one for each kind and size.
    """
    apart = [panel.published is not None and not panel.same_tasks and bool(panel.scores) for panel in panels]
    rows = 2 if any(apart) else 1
    figure = Figure(figsize=(3.7 * len(panels), 4.1 if rows == 1 else 6.2), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.06, w_pad=0.08)  # type: ignore[union-attr, call-arg]
    grid = figure.add_gridspec(rows, len(panels), height_ratios=[3, 2][:rows])
    for column, panel in enumerate(panels):
        if apart[column] and panel.published:
            draw_size_panel(figure.add_subplot(grid[0, column]), panel, models)
            _draw_published_alone(figure.add_subplot(grid[1, column]), panel.published)
        else:
            draw_size_panel(figure.add_subplot(grid[:, column]), panel, models)
    _draw_legend(figure, panels, models)
    return figure


def draw_size_panel(axes: Axes, panel: Panel, models: Sequence[ComparedModel]) -> None:
    """Draw the scores of one panel over parameters, a line a kind, with the paper's where tasks are the same."""
    axes.set_title(f"{panel.suite}\n{panel.title}" if panel.scores else panel.suite, fontsize=11)
    if not panel.scores:
        say_nothing_here(axes, panel.missing)
        return
    drawn = [model for model in models if model.name in panel.scores]
    sizes = [group[0].parameters for group in size_groups(drawn)]
    beside_published = panel.published if panel.same_tasks else None
    low, high = _limits([*sizes, *(SIZES.values() if beside_published else ())])
    if beside_published:
        _draw_published(axes, beside_published)
    kinds = [kind for kind in KINDS if any(model.kind == kind for model in drawn)]
    step = _BESIDE if len(sizes) > 1 or beside_published else _BESIDE_ONE_SIZE
    for index, kind in enumerate(kinds):
        beside = (high / low) ** (step * (index - (len(kinds) - 1) / 2))
        _draw_kind(axes, kind, [model for model in drawn if model.kind == kind], panel, beside)
    _finish_size_axis(axes, sizes, list(SIZES.values()) if beside_published else [], (low, high))
    finish_axes(axes, "parameters", "score (%)")


def _draw_kind(axes: Axes, kind: Kind, models: Sequence[ComparedModel], panel: Panel, beside: float) -> None:
    """Draw one line, moved by the factor ``beside``: kinds stand apart a little, so that no error bar hides another."""
    look, models = LOOKS[kind], sorted(models, key=lambda model: model.parameters)
    scores = [panel.scores[model.name] for model in models]
    values = np.array([score.value for score in scores])
    bounds = np.array([[score.value - score.low, score.high - score.value] for score in scores]).T
    axes.errorbar(
        [model.parameters * beside for model in models],
        values,
        yerr=np.maximum(bounds, 0),
        label=kind,
        color=look.color,
        marker=look.marker,
        linestyle=look.line,
        markersize=5.5,
        linewidth=1.6,
        elinewidth=1.2,
        capsize=3,
        zorder=3,
    )


def _draw_published(axes: Axes, published: PublishedPanel) -> None:
    for kind, line in published.lines.items():
        look = LOOKS[kind]
        axes.plot(
            list(SIZES.values()),
            line.scores,
            color=look.color,
            alpha=_PUBLISHED_ALPHA,
            marker=look.marker,
            markersize=4.5,
            markerfacecolor=look.color if line.exact else "white",
            linestyle=look.line,
            linewidth=1.1,
            label=f"_published {kind}",
            zorder=2,
        )


def _draw_published_alone(axes: Axes, published: PublishedPanel) -> None:
    _draw_published(axes, published)
    axes.set_title(f"published: {published.title}", fontsize=10, color=QUIET)
    _finish_size_axis(axes, [], list(SIZES.values()), _limits(list(SIZES.values())))
    finish_axes(axes, "parameters", "score (%)")
    axes.tick_params(colors=QUIET)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(QUIET)


def _limits(sizes: Sequence[int]) -> tuple[float, float]:
    """Return the ends of the axis: an eighth of the decades, but at least a factor of 1.5, to each side."""
    low, high = min(sizes), max(sizes)
    margin = max(1.5, (high / low) ** 0.125)
    return low / margin, high * margin


def _finish_size_axis(axes: Axes, own: Sequence[int], published: Sequence[int], limits: tuple[float, float]) -> None:
    """Name the sizes on the axis; where two are too close for both names, one's own goes before the paper's."""
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    apart = (limits[1] / limits[0]) ** _TICKS_APART
    ticks: list[int] = []
    for size in (*own, *published):
        if all(max(size, other) / min(size, other) > apart for other in ticks):
            ticks.append(size)
    ticks.sort()
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([size_name(size) for size in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    if any(b / a < apart**1.8 for a, b in pairwise(ticks)):
        axes.tick_params(axis="x", labelsize=8)


def kind_handles(models: Sequence[ComparedModel]) -> list[Line2D]:
    """Return what a legend shows for the kinds that are there."""
    kinds = [kind for kind in KINDS if any(model.kind == kind for model in models)]
    return [
        Line2D([], [], color=LOOKS[kind].color, marker=LOOKS[kind].marker, linestyle=LOOKS[kind].line, label=kind)
        for kind in kinds
    ]


def _draw_legend(figure: Figure, panels: Sequence[Panel], models: Sequence[ComparedModel]) -> None:
    handles = kind_handles(models)
    if any(panel.published and panel.scores for panel in panels):
        style = {"color": QUIET, "alpha": 0.6, "linewidth": 1.1, "markersize": 4.5}
        handles.append(Line2D([], [], marker="o", label="published, printed in a table", **style))  # type: ignore[arg-type]
        handles.append(
            Line2D([], [], marker="o", markerfacecolor="white", label="published, read off a figure", **style)  # type: ignore[arg-type]
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)), frameon=False, fontsize=9.5)
