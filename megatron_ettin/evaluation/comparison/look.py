"""Colours and styles of the comparison's figures, and writing them to disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from megatron_ettin.evaluation.models.kinds import KINDS, Kind
from megatron_ettin.evaluation.results import Measure
from megatron_ettin.evaluation.run_reports.figures import label_axes
from megatron_ettin.evaluation.run_reports.four_way import KIND_COLORS
from megatron_ettin.files import atomic_file

FIGURE_SUFFIXES = (".png", ".pdf")
QUIET = "#5f6368"
"""Colour of text and lines that belong to no model."""


@dataclass(frozen=True)
class KindLook:
    """How a kind of model is drawn; markers and dashes distinguish the kinds without colour."""

    color: str
    marker: str
    line: Literal["-", "--"]


_LINES: Sequence[Literal["-", "--"]] = ("-", "-", "--", "--")
LOOKS: Mapping[Kind, KindLook] = {
    kind: KindLook(KIND_COLORS[kind.replace("-", " ")], marker, line)
    for kind, marker, line in zip(KINDS, "osD^", _LINES, strict=True)
}


def finish_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Label axes in the common style, with the grid below the data."""
    label_axes(axes, x_label, y_label)
    axes.set_axisbelow(True)


def draw_legend(figure: Figure, handles: Sequence[Artist], columns: int) -> None:
    """Draw a legend below the panels."""
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9.5)


def error_bars(measures: Sequence[Measure]) -> NDArray[np.float64]:
    """Return the distances to both bounds of the intervals, [2, N], as matplotlib draws error bars."""
    bounds = np.array([[measure.value - measure.low, measure.high - measure.value] for measure in measures]).T
    return np.maximum(bounds, 0)


def label_empty_panel(axes: Axes, text: str) -> None:
    """Write into an empty panel why it is empty."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=QUIET, fontsize=10)


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG and PDF; equal figures give equal bytes."""
    paths = [stem.with_name(stem.name + suffix) for suffix in FIGURE_SUFFIXES]
    for path in paths:
        metadata: dict[str, Any] = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": None}
        with atomic_file(path) as partial:
            figure.savefig(partial, dpi=200, format=path.suffix[1:], metadata=metadata)
    return paths
