"""What a suite comes to for one model, so that models can stand in one panel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megatron_ettin.evaluation.comparison.models import ComparedModel
from megatron_ettin.evaluation.comparison.published import FIGURE_1, PublishedPanel, PublishedTask
from megatron_ettin.evaluation.results import Measure, TaskResult

_NO_SHARES = ("loss", "perplexity", "bits", "byte", "nats")
"""Words in the names of metrics that are no share of 1."""


@dataclass(frozen=True)
class Panel:
    """One suite over several models: a score for each of them, and what it is the mean of."""

    suite: str
    title: str
    tasks: Sequence[str]
    scores: Mapping[str, Measure]
    """In the panel's unit, by the model's name; models that lack the suite are not in it."""
    missing: str = ""
    """Why there are no scores, where there are none."""
    published: PublishedPanel | None = None
    """The paper's panel of this suite."""
    same_tasks: bool = False
    """Whether the paper's scores are of the same tasks, so that both may stand on one axis."""
    unit: str = "score (%)"


def is_share(metric: str) -> bool:
    """Whether a metric is a share of 1 (or a correlation), to be told in percent; more is better."""
    return not any(word in metric.lower() for word in _NO_SHARES)


def in_percent(measure: Measure) -> Measure:
    """Return a share in percent."""
    return Measure(100 * measure.value, 100 * measure.low, 100 * measure.high)


def scored_tasks(model: ComparedModel, suite: str) -> dict[str, TaskResult]:
    """Return the tasks of a suite whose main metric is a share and is defined."""
    return {
        task: result
        for task, result in model.suites.get(suite, {}).items()
        if is_share(result.main) and math.isfinite(result.main_measure.value)
    }


def suite_panel(suite: str, models: Sequence[ComparedModel]) -> Panel:
    """Return the score of a suite for all models that have it.

    It is the paper's own choice of tasks where all models have these, and the mean of the tasks that all of them have
    otherwise: a mean over more tasks for one model than for another compares nothing.
    """
    found = {model.name: scored_tasks(model, suite) for model in models}
    found = {name: tasks for name, tasks in found.items() if tasks}
    shared = sorted(set.intersection(*map(set, found.values()))) if found else []
    published = FIGURE_1.get(suite)
    hub_tasks = [task for task in shared if not any(model.has_local(suite, task) for model in models)]
    paper = _papers_choice(published, hub_tasks)
    tasks = paper or shared
    scores = {name: mean_of([results[task].main_measure for task in tasks]) for name, results in found.items() if tasks}
    title = published.title if published and paper else _title(tasks, [found[name] for name in scores])
    missing = "" if scores else (f"no task of {suite}\nthat all models have" if found else f"no {suite} results")
    return Panel(suite, title, tasks, scores, missing, published, same_tasks=bool(paper))


def intrinsic_panel(models: Sequence[ComparedModel]) -> Panel:
    """Return the bits per byte of every model under the objective of its kind, or the losses where those are not known.

    Bits of a masked token are fewer than those of a next one, as more is known of its surroundings: encoders compare
    with encoders and decoders with decoders only.
    """
    told = {model.name: result.metrics for model in models if (result := _under_own_objective(model))}
    for metric, unit in (("bits_per_byte", "bits per byte"), ("validation_loss", "loss (nats a token)")):
        if told and all(metric in metrics for metrics in told.values()):
            scores = {name: metrics[metric] for name, metrics in told.items()}
            return Panel("intrinsic", f"{metric_title(metric)}, own objective", [], scores, unit=unit)
    return Panel("intrinsic", "", [], {}, "no intrinsic results")


def _under_own_objective(model: ComparedModel) -> TaskResult | None:
    return model.suites.get("intrinsic", {}).get("mlm" if model.kind.startswith("encoder") else "clm")


def mean_of(measures: Sequence[Measure]) -> Measure:
    """Return the mean of several tasks' measures in percent with its interval.

    Tasks are independent, so the distances to their bounds add up as the roots of squares do.
    """
    value = sum(measure.value for measure in measures) / len(measures)
    below = math.sqrt(sum((measure.value - measure.low) ** 2 for measure in measures)) / len(measures)
    above = math.sqrt(sum((measure.high - measure.value) ** 2 for measure in measures)) / len(measures)
    return in_percent(Measure(value, value - below, value + above))


def _papers_choice(published: PublishedPanel | None, tasks: Sequence[str]) -> list[str]:
    """Return the names under which all of the paper's tasks are among these; [] when one is missing."""
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
    """Return a metric's name as figures and tables head it: ``ndcg_at_10`` is nDCG@10."""
    known = {"f1": "F1", "acc": "accuracy", "acc_norm": "normalized accuracy", "matthews": "Matthews' correlation"}
    return known.get(metric, metric.replace("ndcg", "nDCG").replace("_at_", "@").replace("_", " "))
