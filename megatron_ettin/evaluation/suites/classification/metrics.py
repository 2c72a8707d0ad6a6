"""Metrics of predictions, and their confidence over items and seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.evaluation.results import Measure
from megatron_ettin.evaluation.statistics import BOUNDS

Metric = Callable[[NDArray[Any], NDArray[Any]], float]
"""From what is right and what was predicted, item by item, to one figure: the higher the better."""

RESAMPLES = 1000


def accuracy(targets_N: NDArray[Any], predictions_N: NDArray[Any]) -> float:
    """Return the share of items told right."""
    return float(np.mean(targets_N == predictions_N))


def f1(targets_N: NDArray[Any], predictions_N: NDArray[Any]) -> float:
    """Return the F1 of class 1, as MRPC and QQP are scored; 0 where nothing is of it and nothing told so."""
    from sklearn.metrics import f1_score

    return float(f1_score(targets_N, predictions_N, labels=[1], average="macro", zero_division=0.0))


def matthews(targets_N: NDArray[Any], predictions_N: NDArray[Any]) -> float:
    """Return Matthews' correlation, as CoLA is scored; 0 where all predictions are the same."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(targets_N, predictions_N))


def pearson(targets_N: NDArray[Any], predictions_N: NDArray[Any]) -> float:
    """Return the linear correlation; 0 where all predictions are the same."""
    from scipy.stats import pearsonr

    return float(pearsonr(targets_N, predictions_N).statistic) if _varies(predictions_N) else 0.0


def spearman(targets_N: NDArray[Any], predictions_N: NDArray[Any]) -> float:
    """Return the correlation of ranks; 0 where all predictions are the same."""
    from scipy.stats import spearmanr

    return float(spearmanr(targets_N, predictions_N).statistic) if _varies(predictions_N) else 0.0


METRICS: Mapping[str, Metric] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}
MEANS = ("accuracy",)
"""Metrics that are means over items, so that items have a score of their own."""


def measure(
    metric: Metric,
    targets_N: NDArray[Any],
    predictions_KN: NDArray[Any],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Measure:
    """Return the mean of a metric over the trials, with its 95% percentile bootstrap interval.

    Each resample draws N items and K trials, both with replacement, and takes the mean of the metric over the drawn
    trials on the drawn items: the interval covers other test items and other seeds. With a single trial it covers other
    items alone. A resample in which the metric is not defined, since all its items are the same, is left out.

    Args:
        metric: what is measured.
        targets_N: what is right for each item.
        predictions_KN: what each trial predicted for it.
        resamples: number of resamples.
        seed: what they are drawn with.
    """
    num_trials, num_items = predictions_KN.shape
    generator = np.random.default_rng(seed)
    figures = []
    for _ in range(resamples):
        items = generator.integers(num_items, size=num_items)
        trials, times = np.unique(generator.integers(num_trials, size=num_trials), return_counts=True)
        drawn = [metric(targets_N[items], predictions_KN[trial, items]) for trial in trials]
        figures.append(float(np.average(drawn, weights=times)))
    low, high = np.nanpercentile(figures, BOUNDS)
    value = float(np.mean([metric(targets_N, predictions_N) for predictions_N in predictions_KN]))
    return Measure(value, float(low), float(high))


def _varies(predictions_N: NDArray[Any]) -> bool:
    return bool(np.ptp(predictions_N) > 0)
