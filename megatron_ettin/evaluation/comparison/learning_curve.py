"""Scores over the training of one model, from the revisions of its release."""

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

from megatron_ettin.evaluation.comparison.look import LOOKS, finish_axes
from megatron_ettin.evaluation.comparison.models import ComparedModel, sources
from megatron_ettin.evaluation.comparison.published import size_name
from megatron_ettin.evaluation.comparison.scores import Panel, intrinsic_panel, suite_panel
from megatron_ettin.evaluation.models.kinds import KINDS

_SUITES = ("classification", "retrieval", "generative", "bias", "intrinsic")
_PANELS_A_ROW = 3
Fill = Literal["full", "none", "left", "right", "top", "bottom"]
_FILLS: Sequence[Fill] = ("full", "none", "left", "right", "top", "bottom")
"""Of markers, to tell models of one kind apart."""


@dataclass(frozen=True)
class LearningCurve:
    """The revisions of one model that were measured."""

    source: str
    revisions: Sequence[ComparedModel]
    """At least two, in the order of training."""

    @property
    def label(self) -> str:
        """Kind, size and name."""
        model = self.revisions[0]
        return f"{model.kind} {size_name(model.parameters)} ({self.source})"


def find_curves(models: Sequence[ComparedModel]) -> list[LearningCurve]:
    """Return the models of which several revisions were measured; main is left out where it is one of them."""
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
    """Where revisions stand on the horizontal axis: a common one for all curves."""

    unit: Unit
    places: Mapping[str, float]
    """By the model's name."""
    names: Sequence[str] = ()
    """Of the revisions at 0, 1, 2, ..., where there is no other unit."""


def training_axis(curves: Sequence[LearningCurve]) -> TrainingAxis:
    """Place revisions by tokens where their releases tell them, by steps within one phase, else by their order.

    Steps count from the beginning of a phase, so over several phases their numbers alone give no common axis.
    """
    models = [model for curve in curves for model in curve.revisions]
    if all(model.tokens is not None for model in models):
        return TrainingAxis("tokens", {model.name: float(model.tokens or 0) for model in models})
    steps = {model.name: re.fullmatch(r"([a-z]+)(\d+)", model.revision) for model in models}
    if all(steps.values()) and len({told[1] for told in steps.values() if told}) == 1:
        return TrainingAxis("steps", {name: float(told[2]) for name, told in steps.items() if told})
    ordered = sorted({(model.order, model.revision or "main") for model in models})
    place = {revision: float(index) for index, (_, revision) in enumerate(ordered)}
    places = {model.name: place[model.revision or "main"] for model in models}
    return TrainingAxis("revisions", places, [revision for _, revision in ordered])


def curve_panels(curves: Sequence[LearningCurve]) -> list[Panel]:
    """Return a panel for each suite that a revision was put to, over all revisions."""
    models = [model for curve in curves for model in curve.revisions]
    panels = [intrinsic_panel(models) if suite == "intrinsic" else suite_panel(suite, models) for suite in _SUITES]
    return [panel for panel in panels if panel.scores]


def draw_learning(curves: Sequence[LearningCurve]) -> Figure:
    """Draw the score of each suite over training, a line a model; bands are the 95% intervals."""
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
    figure.legend(handles=handles, loc="outside lower center", ncols=min(columns, 2), frameon=False, fontsize=9.5)
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
    """Return the markers' filling: another one for each further model of the same kind."""
    before = sum(curve.revisions[0].kind == curves[index].revisions[0].kind for curve in curves[:index])
    return _FILLS[before % len(_FILLS)]


def _handle(curve: LearningCurve, fill: Fill) -> Line2D:
    look = LOOKS[curve.revisions[0].kind]
    return Line2D(
        [],
        [],
        color=look.color,
        marker=look.marker,
        linestyle=look.line,
        fillstyle=fill,
        label=curve.label,
    )


def _axis_label(unit: Unit) -> str:
    return {"tokens": "tokens of training", "steps": "steps of the phase", "revisions": "revision"}[unit]


def _finish_training_axis(axes: Axes, axis: TrainingAxis) -> None:
    if axis.unit == "revisions":
        axes.set_xticks(range(len(axis.names)), list(axis.names), rotation=40, ha="right", fontsize=8.5)
    else:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlim(left=0)
