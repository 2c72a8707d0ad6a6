"""One score of a suite for each model, for the panels of the figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megatron_ettin.config.objectives import released_objective
from megatron_ettin.evaluation.comparison.models import ComparedModel
from megatron_ettin.evaluation.comparison.published import FIGURE_1, PublishedPanel, PublishedTask
from megatron_ettin.evaluation.results import Measure, TaskResult

_NOT_SHARES = ("loss", "perplexity", "bits", "byte", "nats")
"""Parts of the names of metrics that are not shares of 1."""


@dataclass(frozen=True)
class Panel:
    """The scores of several models in one suite, and the tasks that they are means of."""

    suite: str
    title: str
    tasks: Sequence[str]
    scores: Mapping[str, Measure]
    """In the panel's unit, by the model's name; models without results of the suite are left out."""
    missing: str = ""
    """Why there are no scores; empty if there are."""
    published: PublishedPanel | None = None
    """The paper's panel for this suite."""
    same_tasks: bool = False
    """Whether the paper's scores are of the same tasks and may share an axis."""
    unit: str = "score (%)"


def is_share(metric: str) -> bool:
    """Whether a metric is a share of 1 (or a correlation), shown in percent; higher is better."""
    return not any(word in metric.lower() for word in _NOT_SHARES)


def in_percent(measure: Measure) -> Measure:
    """Return a share in percent."""
    return Measure(100 * measure.value, 100 * measure.low, 100 * measure.high)


def scored_tasks(model: ComparedModel, suite: str) -> dict[str, TaskResult]:
    """Return the tasks of a suite whose main metric is a share with a defined value."""
    return {
        task: result
        for task, result in model.suites.get(suite, {}).items()
        if is_share(result.main) and math.isfinite(result.main_measure.value)
    }


def suite_panel(suite: str, models: Sequence[ComparedModel]) -> Panel:
    """Return the scores of all models that have results of a suite.

    A score is the mean over the paper's tasks if all models have these, and otherwise over the tasks that all models
    have in common: means over different tasks are not comparable.
    """
    results = {model.name: scored_tasks(model, suite) for model in models}
    results = {name: tasks for name, tasks in results.items() if tasks}
    shared = sorted(set.intersection(*map(set, results.values()))) if results else []
    published = FIGURE_1.get(suite)
    hub_tasks = [task for task in shared if not any(model.has_local(suite, task) for model in models)]
    paper = _paper_tasks(published, hub_tasks)
    tasks = paper or shared
    scores = {name: mean_of([of[task].main_measure for task in tasks]) for name, of in results.items() if tasks}
    title = published.title if published and paper else _title(tasks, [results[name] for name in scores])
    missing = "" if scores else (f"no task of {suite}\nthat all models have" if results else f"no {suite} results")
    return Panel(suite, title, tasks, scores, missing, published, same_tasks=bool(paper))


def intrinsic_panel(models: Sequence[ComparedModel]) -> Panel:
    """Return the bits per byte of every model under the objective of its kind, or its loss if those are unknown.

    A masked token has more context than a next token and costs fewer bits, so encoders compare with encoders only, and
    decoders with decoders.
    """
    results = {model.name: result.metrics for model in models if (result := _under_own_objective(model))}
    for metric, unit in (("bits_per_byte", "bits per byte"), ("validation_loss", "loss (nats a token)")):
        if results and all(metric in metrics for metrics in results.values()):
            scores = {name: metrics[metric] for name, metrics in results.items()}
            return Panel("intrinsic", f"{metric_title(metric)}, own objective", [], scores, unit=unit)
    return Panel("intrinsic", "", [], {}, "no intrinsic results")


def _under_own_objective(model: ComparedModel) -> TaskResult | None:
    objective = released_objective("encoder" if model.kind.startswith("encoder") else "decoder")
    return model.suites.get("intrinsic", {}).get(objective)


def mean_of(measures: Sequence[Measure]) -> Measure:
    """Return the mean of several tasks' measures in percent with its interval.

    The tasks are taken as independent: distances to their bounds add in quadrature.
    """
    value = sum(measure.value for measure in measures) / len(measures)
    below = math.sqrt(sum((measure.value - measure.low) ** 2 for measure in measures)) / len(measures)
    above = math.sqrt(sum((measure.high - measure.value) ** 2 for measure in measures)) / len(measures)
    return in_percent(Measure(value, value - below, value + above))


def _paper_tasks(published: PublishedPanel | None, tasks: Sequence[str]) -> list[str]:
    """Return the names that the paper's tasks have among these; [] if one of them is missing."""
    if published is None:
        return []
    names = [_name_of(known, tasks) for known in published.tasks]
    return [name for name in names if name] if all(names) else []


def _name_of(known: PublishedTask, tasks: Sequence[str]) -> str:
    return next((task for task in tasks if task in known.names), "")


def _title(tasks: Sequence[str], results: Sequence[Mapping[str, TaskResult]]) -> str:
    if len(tasks) == 1:
        main = results[0][tasks[0]].main
        return tasks[0] if main == tasks[0] else f"{tasks[0]} {metric_title(main)}"
    return f"mean of {', '.join(tasks)}" if len(tasks) <= 3 else f"mean of {len(tasks)} tasks"


def metric_title(metric: str) -> str:
    """Return a metric's name for figures and tables: ``ndcg_at_10`` becomes nDCG@10."""
    known = {"f1": "F1", "acc": "accuracy", "acc_norm": "normalized accuracy", "matthews": "Matthews' correlation"}
    return known.get(metric, metric.replace("ndcg", "nDCG").replace("_at_", "@").replace("_", " "))
