"""Markdown tables of results in the paper's form: a row per model, a column per task, the paper's rows in italics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from megatron_ettin.evaluation.comparison.bias_figures import GENDERS, GOTCHA, preferences_of
from megatron_ettin.evaluation.comparison.models import ComparedModel
from megatron_ettin.evaluation.comparison.published import SIZES, PublishedScore, published_scores, size_name
from megatron_ettin.evaluation.comparison.scores import in_percent, is_share, mean_of, metric_title, scored_tasks
from megatron_ettin.evaluation.models.kinds import KINDS, Kind
from megatron_ettin.evaluation.results import Measure

NOTHING = "-"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, with bars in cells escaped."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def measure_text(measure: Measure | None, digits: int = 1) -> str:
    """Return a value with its interval: ``79.5 [78.1, 80.9]``."""
    if measure is None or not math.isfinite(measure.value):
        return NOTHING
    if not (math.isfinite(measure.low) and math.isfinite(measure.high)):
        return f"{measure.value:.{digits}f}"
    return f"{measure.value:.{digits}f} [{measure.low:.{digits}f}, {measure.high:.{digits}f}]"


def in_table_order(models: Sequence[ComparedModel]) -> list[ComparedModel]:
    """Return the models sorted by kind, then by size."""
    return sorted(models, key=lambda model: (KINDS.index(model.kind), model.parameters))


def score_table(suites: Sequence[str], models: Sequence[ComparedModel]) -> list[str]:
    """Return a table of all tasks of some suites, in percent, with the mean of each suite that has several tasks.

    Only models with all tasks of a suite have its mean. The paper's models follow if it has one of the tasks.
    """
    tasks = {suite: sorted({task for model in models for task in scored_tasks(model, suite)}) for suite in suites}
    columns = [(suite, task) for suite in suites for task in tasks[suite]]
    if not columns:
        return []
    header = ["model", "kind", "size", *(_heading(suite, task, models) for suite, task in columns)]
    means = [suite for suite in suites if len(tasks[suite]) > 1]
    header += [f"{suite} mean" for suite in means]
    rows = []
    for model in in_table_order(models):
        scored = {suite: scored_tasks(model, suite) for suite in suites}
        cells = [
            measure_text(in_percent(scored[suite][task].main_measure)) if task in scored[suite] else NOTHING
            for suite, task in columns
        ]
        for suite in means:
            measures = [scored[suite][task].main_measure for task in tasks[suite] if task in scored[suite]]
            cells.append(measure_text(mean_of(measures)) if len(measures) == len(tasks[suite]) else NOTHING)
        if any(cell != NOTHING for cell in cells):
            rows.append([model.name, model.kind, size_name(model.parameters), *cells])
    return markdown_table(header, rows + _published_rows(columns, len(means), models))


def _heading(suite: str, task: str, models: Sequence[ComparedModel]) -> str:
    mains = {model.suites[suite][task].main for model in models if task in scored_tasks(model, suite)}
    return f"{task} ({', '.join(metric_title(main) for main in sorted(mains))})"


def _published_rows(
    columns: Sequence[tuple[str, str]], num_means: int, models: Sequence[ComparedModel]
) -> list[list[str]]:
    """Return a row for each of the paper's models with a score in one of the columns."""
    cells: dict[tuple[Kind, str], dict[int, PublishedScore]] = {}
    for index, (suite, task) in enumerate(columns):
        if not any(model.has_local(suite, task) for model in models):
            for score in published_scores(suite, task):
                cells.setdefault((score.kind, score.size), {})[index] = score
    ordered = sorted(cells, key=lambda of: (KINDS.index(of[0]), list(SIZES).index(of[1])))
    return [
        [
            *("*published*", f"*{kind}*", f"*{size}*"),
            *(_published_text(cells[kind, size].get(index)) for index in range(len(columns))),
            *[NOTHING] * num_means,
        ]
        for kind, size in ordered
    ]


def _published_text(score: PublishedScore | None) -> str:
    if score is None:
        return NOTHING
    return f"*{score.score:.1f}*" if score.exact else f"*~{score.score:.1f}*"


def bias_table(models: Sequence[ComparedModel]) -> list[str]:
    """Return the pronoun preferences of all models, with the baselines below."""
    rows: list[list[str]] = []
    baselines: dict[str, Mapping[str, float]] = {}
    for model in in_table_order(models):
        preferences = preferences_of(model)
        if preferences:
            shares = [measure_text(preferences.genders[gender]) for gender in GENDERS]
            size = size_name(model.parameters)
            rows.append([model.name, model.kind, size, *shares, measure_text(preferences.gotcha)])
            baselines.update(preferences.baselines)
    for name, expected in baselines.items():
        rows.append([f"*baseline: {name}*", "", "", *(f"{expected[key]:.1f}" for key in (*GENDERS, GOTCHA))])
    return markdown_table(["model", "kind", "size", *GENDERS, "misleading (gotcha)"], rows) if rows else []


def intrinsic_table(models: Sequence[ComparedModel]) -> list[str]:
    """Return every metric of the intrinsic suite: shares in percent, losses in nats, bits per byte."""
    columns = sorted(
        {
            (task, metric)
            for model in models
            for task, result in model.suites.get("intrinsic", {}).items()
            for metric in result.metrics
        }
    )
    rows = []
    for model in in_table_order(models):
        results = model.suites.get("intrinsic", {})
        if results:
            cells = [
                _intrinsic_text(results[task].metrics.get(metric) if task in results else None, metric)
                for task, metric in columns
            ]
            rows.append([model.name, model.kind, size_name(model.parameters), *cells])
    header = ["model", "kind", "size", *(f"{task}: {metric_title(metric)}" for task, metric in columns)]
    return markdown_table(header, rows) if rows else []


def _intrinsic_text(measure: Measure | None, metric: str) -> str:
    if measure is None:
        return NOTHING
    return measure_text(in_percent(measure)) + "%" if is_share(metric) else measure_text(measure, digits=3)
