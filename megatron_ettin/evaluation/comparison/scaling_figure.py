"""Figure 1 of the paper: scores of the four kinds over model size, one panel per suite."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from megatron_ettin.evaluation.comparison.look import (
    LOOKS,
    QUIET,
    draw_legend,
    error_bars,
    finish_axes,
    label_empty_panel,
)
from megatron_ettin.evaluation.comparison.models import ComparedModel, size_groups
from megatron_ettin.evaluation.comparison.published import SIZES, PublishedPanel, size_name
from megatron_ettin.evaluation.comparison.scores import Panel
from megatron_ettin.evaluation.models.kinds import KINDS, Kind

_PUBLISHED_ALPHA = 0.38
_OFFSET, _OFFSET_ONE_SIZE = 0.014, 0.06
"""Horizontal distance of kinds of one size, as a share of the axis; a single size leaves more room."""
_MIN_TICK_DISTANCE = 0.075
"""Minimum distance of two labelled sizes, as a share of the axis."""


def draw_scaling(panels: Sequence[Panel], models: Sequence[ComparedModel]) -> Figure:
    """Draw the scores of all models over their parameters, with the paper's lines in lighter colours.

    The paper's lines share an axis with the models' only if the tasks are the same. Otherwise they have panels in a
    second row, since scores of different tasks on one axis would look like a comparison.

    Args:
        panels: one for each suite.
        models: one for each kind and size.
    """
    separate = [panel.published is not None and not panel.same_tasks and bool(panel.scores) for panel in panels]
    rows = 2 if any(separate) else 1
    figure = Figure(figsize=(3.7 * len(panels), 4.1 if rows == 1 else 6.2), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.06, w_pad=0.08)  # type: ignore[union-attr, call-arg]
    grid = figure.add_gridspec(rows, len(panels), height_ratios=[3, 2][:rows])
    for column, panel in enumerate(panels):
        if separate[column] and panel.published:
            draw_size_panel(figure.add_subplot(grid[0, column]), panel, models)
            _draw_published_alone(figure.add_subplot(grid[1, column]), panel.published)
        else:
            draw_size_panel(figure.add_subplot(grid[:, column]), panel, models)
    _draw_legend(figure, panels, models)
    return figure


def draw_size_panel(axes: Axes, panel: Panel, models: Sequence[ComparedModel]) -> None:
    """Draw the scores of one panel over parameters, one line per kind, and the paper's lines if the tasks agree."""
    axes.set_title(f"{panel.suite}\n{panel.title}" if panel.scores else panel.suite, fontsize=11)
    if not panel.scores:
        label_empty_panel(axes, panel.missing)
        return
    drawn = [model for model in models if model.name in panel.scores]
    sizes = [group[0].parameters for group in size_groups(drawn)]
    published = panel.published if panel.same_tasks else None
    low, high = _limits([*sizes, *(SIZES.values() if published else ())])
    if published:
        _draw_published(axes, published)
    kinds = [kind for kind in KINDS if any(model.kind == kind for model in drawn)]
    step = _OFFSET if len(sizes) > 1 or published else _OFFSET_ONE_SIZE
    for index, kind in enumerate(kinds):
        offset = (high / low) ** (step * (index - (len(kinds) - 1) / 2))
        _draw_kind(axes, kind, [model for model in drawn if model.kind == kind], panel, offset)
    _finish_size_axis(axes, sizes, list(SIZES.values()) if published else [], (low, high))
    finish_axes(axes, "parameters", "score (%)")


def _draw_kind(axes: Axes, kind: Kind, models: Sequence[ComparedModel], panel: Panel, offset: float) -> None:
    """Draw one line, shifted by the factor ``offset`` so that no error bar hides another."""
    look, models = LOOKS[kind], sorted(models, key=lambda model: model.parameters)
    scores = [panel.scores[model.name] for model in models]
    axes.errorbar(
        [model.parameters * offset for model in models],
        [score.value for score in scores],
        yerr=error_bars(scores),
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
    """Return the limits of the axis, with a margin of an eighth of the decades but at least a factor of 1.5."""
    low, high = min(sizes), max(sizes)
    margin = max(1.5, (high / low) ** 0.125)
    return low / margin, high * margin


def _finish_size_axis(axes: Axes, own: Sequence[int], published: Sequence[int], limits: tuple[float, float]) -> None:
    """Label the sizes on the axis; of two that are too close, the models' own size is labelled."""
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    apart = (limits[1] / limits[0]) ** _MIN_TICK_DISTANCE
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
    """Return the legend entries of the kinds among the models."""
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
    draw_legend(figure, handles, columns=min(3, len(handles)))
