"""Learning curves: the scores of a model's revisions over its training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from megatron_ettin.evaluation.comparison.look import LOOKS, draw_legend, finish_axes
from megatron_ettin.evaluation.comparison.models import ComparedModel, sources
from megatron_ettin.evaluation.comparison.published import size_name
from megatron_ettin.evaluation.comparison.scores import Panel, intrinsic_panel, suite_panel
from megatron_ettin.evaluation.models.kinds import KINDS

_SUITES = ("classification", "retrieval", "generative", "bias", "intrinsic")
_PANELS_A_ROW = 3
Fill = Literal["full", "none", "left", "right", "top", "bottom"]
_FILLS: Sequence[Fill] = ("full", "none", "left", "right", "top", "bottom")
"""Marker fills that distinguish models of one kind."""


@dataclass(frozen=True)
class LearningCurve:
    """The evaluated revisions of one model."""

    source: str
    revisions: Sequence[ComparedModel]
    """At least two, in the order of training."""

    @property
    def label(self) -> str:
        """Kind, size and name for the legend."""
        model = self.revisions[0]
        return f"{model.kind} {size_name(model.parameters)} ({self.source})"


def find_curves(models: Sequence[ComparedModel]) -> list[LearningCurve]:
    """Return a curve for each model with several evaluated revisions; main is dropped if it equals one of them."""
    curves = []
    for (source, _), revisions in sources(models).items():
        named = {model.checksum for model in revisions if model.revision}
        kept = [model for model in revisions if model.revision or model.checksum not in named]
        if len(kept) > 1:
            curves.append(LearningCurve(source, kept))
    return sorted(curves, key=lambda curve: (KINDS.index(curve.revisions[0].kind), curve.revisions[0].parameters))


Unit = Literal["tokens", "steps", "revisions"]


@dataclass(frozen=True)
class TrainingAxis:
    """Positions of revisions on the horizontal axis that all curves share."""

    unit: Unit
    places: Mapping[str, float]
    """By the model's name."""
    names: Sequence[str] = ()
    """Labels of the positions 0, 1, 2, ..., if the unit is revisions."""


def training_axis(curves: Sequence[LearningCurve]) -> TrainingAxis:
    """Place revisions by tokens if all are known, by steps if all are of one phase, and otherwise by their order.

    Steps count from the start of a phase, so steps of different phases have no common axis.
    """
    models = [model for curve in curves for model in curve.revisions]
    if all(model.tokens is not None for model in models):
        return TrainingAxis("tokens", {model.name: float(model.tokens or 0) for model in models})
    steps = {model.name: re.fullmatch(r"([a-z]+)(\d+)", model.revision) for model in models}
    if all(steps.values()) and len({match[1] for match in steps.values() if match}) == 1:
        return TrainingAxis("steps", {name: float(match[2]) for name, match in steps.items() if match})
    ordered = sorted({(model.order, model.revision or "main") for model in models})
    place = {revision: float(index) for index, (_, revision) in enumerate(ordered)}
    places = {model.name: place[model.revision or "main"] for model in models}
    return TrainingAxis("revisions", places, [revision for _, revision in ordered])


def curve_panels(curves: Sequence[LearningCurve]) -> list[Panel]:
    """Return a panel over all revisions for each suite with scores."""
    models = [model for curve in curves for model in curve.revisions]
    panels = [intrinsic_panel(models) if suite == "intrinsic" else suite_panel(suite, models) for suite in _SUITES]
    return [panel for panel in panels if panel.scores]


def draw_learning(curves: Sequence[LearningCurve]) -> Figure:
    """Draw the score of each suite over training, one line per model with its 95% band."""
    panels, axis = curve_panels(curves), training_axis(curves)
    columns = max(1, min(_PANELS_A_ROW, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(max(5.2, 3.8 * columns), 0.7 + 3.3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, panel in zip_longest(grid, panels):
        if panel is None:
            axes.set_axis_off()
            continue
        for index, curve in enumerate(curves):
            _draw_curve(axes, curve, panel, axis, _fill(curves, index))
        axes.set_title(f"{panel.suite}\n{panel.title}", fontsize=11)
        finish_axes(axes, _axis_label(axis.unit), panel.unit)
        _finish_training_axis(axes, axis)
    handles = [_handle(curve, _fill(curves, index)) for index, curve in enumerate(curves)]
    draw_legend(figure, handles, columns=min(columns, 2))
    return figure


def _draw_curve(axes: Axes, curve: LearningCurve, panel: Panel, axis: TrainingAxis, fill: Fill) -> None:
    models = [model for model in curve.revisions if model.name in panel.scores]
    if not models:
        return
    look = LOOKS[models[0].kind]
    places = [axis.places[model.name] for model in models]
    scores = [panel.scores[model.name] for model in models]
    axes.fill_between(places, [s.low for s in scores], [s.high for s in scores], color=look.color, alpha=0.15, lw=0)
    axes.plot(
        places,
        [score.value for score in scores],
        color=look.color,
        marker=look.marker,
        fillstyle=fill,
        linestyle=look.line,
        markersize=5,
        linewidth=1.6,
        label=curve.label,
    )


def _fill(curves: Sequence[LearningCurve], index: int) -> Fill:
    """Return the marker fill, which differs among models of the same kind."""
    before = sum(curve.revisions[0].kind == curves[index].revisions[0].kind for curve in curves[:index])
    return _FILLS[before % len(_FILLS)]


def _handle(curve: LearningCurve, fill: Fill) -> Line2D:
    look = LOOKS[curve.revisions[0].kind]
    style = {"color": look.color, "marker": look.marker, "linestyle": look.line, "fillstyle": fill}
    return Line2D([], [], label=curve.label, **style)  # type: ignore[arg-type]


def _axis_label(unit: Unit) -> str:
    return {"tokens": "tokens of training", "steps": "steps of the phase", "revisions": "revision"}[unit]


def _finish_training_axis(axes: Axes, axis: TrainingAxis) -> None:
    if axis.unit == "revisions":
        axes.set_xticks(range(len(axis.names)), list(axis.names), rotation=40, ha="right", fontsize=8.5)
    else:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlim(left=0)
