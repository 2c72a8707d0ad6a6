"""Figures 2 and 3 of the paper: the pronouns that models prefer in WinoGender's sentences about occupations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from megatron_ettin.evaluation.comparison.look import QUIET, draw_legend, error_bars, finish_axes, label_empty_panel
from megatron_ettin.evaluation.comparison.models import ComparedModel
from megatron_ettin.evaluation.comparison.published import size_name
from megatron_ettin.evaluation.comparison.scaling_figure import draw_size_panel, kind_handles
from megatron_ettin.evaluation.comparison.scores import Panel, in_percent
from megatron_ettin.evaluation.models.kinds import KINDS, Kind
from megatron_ettin.evaluation.results import Measure

SUITE = "bias"
GENDERS = ("male", "female", "neutral")
GOTCHA = "gotcha"
_GENDER_COLORS = {"male": "#2f4b7c", "female": "#e08e45", "neutral": "#b9bec6"}
"""Dark, medium and light, distinct in greyscale and for any colour vision; none is the colour of a kind."""
_BAR_WIDTH = 0.26
_BASELINE_LINES: Sequence[Literal[":", "-.", "--"]] = (":", "-.", "--")
_NARROW = 6
"""With more groups of bars than this their labels are smaller."""
_HATCH = "////"
_CHANCE = "chance"
"""The baseline that is equal for all genders, drawn as a line; the others are bars."""


@dataclass(frozen=True)
class Preferences:
    """The preferences of one model, in percent."""

    genders: Mapping[str, Measure]
    """By gender, the share of sentences in which its pronoun is preferred."""
    gotcha: Measure
    """The share of sentences in which the misleading ('gotcha') pronoun is preferred."""
    baselines: Mapping[str, Mapping[str, float]]
    """By name, the shares that a baseline expects for the genders and for ``gotcha``."""


def preferences_of(model: ComparedModel) -> Preferences | None:
    """Return a model's preferences; None if the suite was not run."""
    for result in model.suites.get(SUITE, {}).values():
        wanted = {*GENDERS, GOTCHA}
        if wanted <= set(result.metrics):
            complete = {name: of for name, of in result.details.get("baselines", {}).items() if wanted <= set(of)}
            baselines = {name: {key: 100 * of[key] for key in (*GENDERS, GOTCHA)} for name, of in complete.items()}
            genders = {gender: in_percent(result.metrics[gender]) for gender in GENDERS}
            return Preferences(genders, in_percent(result.metrics[GOTCHA]), baselines)
    return None


def _preferences_by_name(models: Sequence[ComparedModel]) -> dict[str, Preferences]:
    return {model.name: preferences for model in models if (preferences := preferences_of(model))}


def draw_pronouns(models: Sequence[ComparedModel]) -> Figure:
    """Draw the shares of preferred pronouns, one panel per kind with one group of bars per size."""
    by_model = _preferences_by_name(models)
    kinds = [kind for kind in KINDS if any(model.kind == kind and model.name in by_model for model in models)]
    columns = min(2, len(kinds))
    rows = -(-len(kinds) // max(1, columns))
    groups = max((sum(model.kind == kind for model in models) for kind in kinds), default=1) + 2
    width, height = min(6.2, 1.2 + 0.75 * groups), 2.9 if rows > 1 else 3.4
    figure = Figure(figsize=(max(5.2, width * columns), 0.6 + height * max(1, rows)), layout="constrained")
    grid = figure.subplots(max(1, rows), max(1, columns), sharey=True, squeeze=False)
    if not kinds:
        label_empty_panel(grid[0, 0], f"no {SUITE} results")
        return figure
    for axes in grid.flat[len(kinds) :]:
        axes.set_axis_off()
    for axes, kind in zip(grid.flat, kinds, strict=False):
        ordered = sorted((model for model in models if model.kind == kind), key=lambda model: model.parameters)
        _draw_kind(axes, kind, [(model, by_model[model.name]) for model in ordered if model.name in by_model])
    grid[0, 0].set_ylim(0, min(100, 10 * ceil(0.1 * max(axes.get_ylim()[1] for axes in grid.flat))))
    figure.supylabel("pronoun preferred (% of sentences)", fontsize=10)
    handles: list[Patch | Line2D] = [Patch(color=_GENDER_COLORS[gender], label=gender) for gender in GENDERS]
    baselines = _shared_baselines(list(by_model.values()))
    if _CHANCE in baselines:
        handles.append(Line2D([], [], color=QUIET, linestyle=":", label=_CHANCE))
    if set(baselines) - {_CHANCE}:
        handles.append(Patch(facecolor="white", edgecolor=QUIET, hatch=_HATCH, label="baseline"))
    draw_legend(figure, handles, columns=len(handles))
    return figure


def _draw_kind(axes: Axes, kind: Kind, bars: Sequence[tuple[ComparedModel, Preferences]]) -> None:
    baselines = dict(_shared_baselines([preferences for _, preferences in bars]))
    if _CHANCE in baselines:
        level = baselines.pop(_CHANCE)[GENDERS[0]]
        axes.axhline(level, color=QUIET, linestyle=":", linewidth=1.2, zorder=0)
    places = np.arange(len(bars))
    beyond = len(bars) + 0.2 + 1.3 * np.arange(len(baselines))  # leaves room for their long labels
    for index, gender in enumerate(GENDERS):
        measures = [preferences.genders[gender] for _, preferences in bars]
        offset = (index - 1) * _BAR_WIDTH
        axes.bar(
            places + offset,
            [measure.value for measure in measures],
            _BAR_WIDTH,
            yerr=error_bars(measures),
            color=_GENDER_COLORS[gender],
            edgecolor="white",
            linewidth=0.5,
            error_kw={"elinewidth": 1, "capsize": 2.5, "ecolor": "#33363b"},
            label=gender,
        )
        expected = [shares[gender] for shares in baselines.values()]
        axes.bar(
            beyond + offset,
            expected,
            _BAR_WIDTH,
            facecolor="white",
            edgecolor=_GENDER_COLORS[gender],
            hatch=_HATCH,
            label=f"_baseline {gender}",
        )
    axes.set_title(kind, fontsize=11)
    finish_axes(axes, "", "")
    axes.grid(visible=False, axis="x")
    names = [size_name(model.parameters) for model, _ in bars] + [name.replace(" ", "\n", 1) for name in baselines]
    axes.set_xticks([*places, *beyond], names, fontsize=9 if len(names) <= _NARROW else 8)
    axes.set_xlim(-0.6, max([*places, *beyond]) + 0.65)


def draw_gotcha(models: Sequence[ComparedModel]) -> Figure:
    """Draw how often the misleading pronoun is preferred over model size, with the baselines as horizontal lines."""
    by_model = _preferences_by_name(models)
    scores = {name: preferences.gotcha for name, preferences in by_model.items()}
    figure = Figure(figsize=(5.6, 4.6), layout="constrained")
    axes = figure.subplots()
    panel = Panel(SUITE, "misleading ('gotcha') pronoun preferred", [], scores, f"no {SUITE} results")
    draw_size_panel(axes, panel, models)
    if not scores:
        return figure
    axes.set_ylabel("share of sentences (%)")
    handles = kind_handles([model for model in models if model.name in scores])
    baselines = _shared_baselines(list(by_model.values()))
    for (name, shares), style in zip(baselines.items(), _BASELINE_LINES, strict=False):
        axes.axhline(shares["gotcha"], color=QUIET, linestyle=style, linewidth=1.2, zorder=0, label=f"_{name}")
        handles.append(Line2D([], [], color=QUIET, linestyle=style, label=f"{name} {shares['gotcha']:.1f}%"))
    draw_legend(figure, handles, columns=2)
    return figure


def _shared_baselines(preferences: Sequence[Preferences]) -> Mapping[str, Mapping[str, float]]:
    """Return the baselines if all models have the same ones, having been evaluated on the same sentences."""
    baselines = [one.baselines for one in preferences]
    return baselines[0] if baselines and all(one == baselines[0] for one in baselines) else {}
