"""From the scores of each seed to a task's result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from megatron_ettin.evaluation.suites.rate_choice import RateChoice
from megatron_ettin.evaluation.suites.results import Measure, TaskResult
from megatron_ettin.evaluation.suites.retrieval.protocol import POOLING
from megatron_ettin.evaluation.suites.statistics import mean_measure, spread_over_seeds
from megatron_ettin.evaluation.suites.subject import Subject

QueryScores = Mapping[str, Sequence[float]]
"""By metric, the score of every query."""


def result_of_queries(by_seed: Sequence[QueryScores], main: str, details: Mapping[str, Any]) -> TaskResult:
    """Return the means over seeds of every query's scores, with intervals over queries.

    Args:
        by_seed: for each seed, the scores of the same queries in the same order.
        main: the metric that stands for the task.
        details: what else to tell.
    """
    items = {metric: np.mean([scores[metric] for scores in by_seed], axis=0).tolist() for metric in by_seed[0]}
    means = {metric: [float(np.mean(scores[metric])) for scores in by_seed] for metric in items}
    metrics = {metric: mean_measure(of_queries) for metric, of_queries in items.items()}
    return TaskResult(metrics, main, items, {**details, **_over_seeds(means, main)})


def result_of_scores(of_seeds: Sequence[float], main: str, details: Mapping[str, Any]) -> TaskResult:
    """Return the mean over seeds of a score that has no items, so that its interval is not known."""
    measure = Measure(float(np.mean(of_seeds)), float("nan"), float("nan"))
    return TaskResult({main: measure}, main, {}, {**details, **_over_seeds({main: of_seeds}, main)})


def describe_choice(choice: RateChoice, subject: Subject) -> dict[str, Any]:
    """Return what a reader wants to know of how an embedder was made."""
    return {**choice.as_details(), "pooling": POOLING[subject.is_encoder]}


def _over_seeds(by_metric: Mapping[str, Sequence[float]], main: str) -> dict[str, Any]:
    """Return each seed's figures and their standard deviation."""
    spread = spread_over_seeds(by_metric)
    by_seed = {metric: list(told) for metric, told in by_metric.items()}
    return {"by_seed": by_seed, "seed_scores": by_seed[main], "standard_deviation_over_seeds": spread}
