"""Metrics of predictions, with confidence intervals over items and training seeds.

Shape suffixes: N items, K trials (one per seed).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.evaluation.results import Measure
from megatron_ettin.evaluation.statistics import BOUNDS

Metric = Callable[[NDArray[Any], NDArray[Any]], float]
"""Maps targets and predictions to a score; higher is better."""

RESAMPLES = 1000


def accuracy(targets_N: NDArray[Any], predictions_N: NDArray[Any]) -> float:
    """Return the proportion of correct predictions."""
    return float(np.mean(targets_N == predictions_N))


def f1(targets_N: NDArray[Any], predictions_N: NDArray[Any]) -> float:
    """Return the F1 score of class 1, as for MRPC and QQP; 0 if neither targets nor predictions contain it."""
    from sklearn.metrics import f1_score

    return float(f1_score(targets_N, predictions_N, labels=[1], average="macro", zero_division=0.0))


def matthews(targets_N: NDArray[Any], predictions_N: NDArray[Any]) -> float:
    """Return Matthews' correlation, as for CoLA; 0 if all predictions are equal."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(targets_N, predictions_N))


def pearson(targets_N: NDArray[Any], predictions_N: NDArray[Any]) -> float:
    """Return Pearson's correlation; 0 if all predictions are equal."""
    from scipy.stats import pearsonr

    return float(pearsonr(targets_N, predictions_N).statistic) if _varies(predictions_N) else 0.0


def spearman(targets_N: NDArray[Any], predictions_N: NDArray[Any]) -> float:
    """Return Spearman's rank correlation; 0 if all predictions are equal."""
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
"""Metrics that are means over items, so that every item has a score."""


def measure(
    metric: Metric, targets_N: NDArray[Any], predictions_KN: NDArray[Any], *, resamples: int = RESAMPLES, seed: int = 0
) -> Measure:
    """Return the mean of a metric over trials, with its 95% percentile bootstrap interval.

    Each resample draws N items and K trials with replacement and averages the metric over the drawn trials on the drawn
    items, so the interval covers the choice of test items and of seeds; with a single trial, of test items only.
    Resamples in which the metric is undefined because all items are equal are left out.

    Args:
        metric: the metric.
        targets_N: the target of each item.
        predictions_KN: the prediction of each trial for each item.
        resamples: number of resamples.
        seed: seed of the resampling.
    """
    num_trials, num_items = predictions_KN.shape
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        items = generator.integers(num_items, size=num_items)
        trials, counts = np.unique(generator.integers(num_trials, size=num_trials), return_counts=True)
        scores = [metric(targets_N[items], predictions_KN[trial, items]) for trial in trials]
        means.append(float(np.average(scores, weights=counts)))
    low, high = np.nanpercentile(means, BOUNDS)
    value = float(np.mean([metric(targets_N, predictions_N) for predictions_N in predictions_KN]))
    return Measure(value, float(low), float(high))


def _varies(predictions_N: NDArray[Any]) -> bool:
    return bool(np.ptp(predictions_N) > 0)
