"""Confidence intervals by the percentile bootstrap over items (Efron 1979), for single and paired samples.

Shape suffixes: N items, R resamples, U distinct values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.evaluation.results import Measure

BOUNDS = (2.5, 97.5)
"""Percentiles of the resampled values that bound the 95% interval."""

_MAX_INDICES = 4_000_000
"""Indices drawn at a time, which bounds memory to 32 MB."""
_MAX_DISTINCT_VALUES = 64
"""Up to this number of distinct scores (right or wrong, say) resamples are drawn by value, which is much faster."""


def mean_measure(items: Sequence[float], *, resamples: int = 2000, seed: int = 0) -> Measure:
    """Return the mean of item scores with its 95% percentile bootstrap interval.

    Raises:
        ValueError: there are no items.
    """
    scores_N = np.asarray(items, dtype=np.float64)
    if scores_N.ndim != 1 or not scores_N.size:
        raise ValueError(f"items of shape {scores_N.shape}: must be one-dimensional and not empty")
    num_items, generator = scores_N.size, np.random.default_rng(seed)
    values_U, counts_U = np.unique(scores_N, return_counts=True)
    if values_U.size <= _MAX_DISTINCT_VALUES:  # the counts of the values determine the mean
        drawn_RU = generator.multinomial(num_items, counts_U / num_items, size=resamples)
        return _measure(float(scores_N.mean()), drawn_RU @ values_U / num_items)
    at_a_time = max(1, _MAX_INDICES // num_items)
    means: list[NDArray[np.float64]] = []
    for start in range(0, resamples, at_a_time):
        shape = (min(at_a_time, resamples - start), num_items)
        means.append(scores_N[generator.integers(num_items, size=shape)].mean(axis=1))
    return _measure(float(scores_N.mean()), np.concatenate(means))


def bootstrap_measure(
    metric: Callable[[NDArray[np.int64]], float], num_items: int, *, resamples: int = 1000, seed: int = 0
) -> Measure:
    """Return a metric that is not a mean, with its interval; ``metric`` maps item indices to its value on those items.

    Resamples in which the metric is undefined (NaN, such as a correlation of identical items) are left out.

    Raises:
        ValueError: there are no items.
    """
    if num_items < 1:
        raise ValueError("there are no items to resample")
    generator = np.random.default_rng(seed)
    drawn = (generator.integers(num_items, size=num_items) for _ in range(resamples))
    values_R = np.array([metric(indices) for indices in drawn], dtype=np.float64)
    return _measure(float(metric(np.arange(num_items))), values_R)


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, resamples: int = 10_000, seed: int = 0
) -> Measure:
    """Return the mean of ``first - second`` over the same items with its 95% interval.

    Raises:
        ValueError: there are no items, or the numbers of items differ.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} items cannot be paired")
    differences_N = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return mean_measure(differences_N.tolist(), resamples=resamples, seed=seed)


def spread_over_seeds(by_metric: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the standard deviation over seeds of each metric, given one value per seed; empty for a single seed."""
    return {metric: float(np.std(values, ddof=1)) for metric, values in by_metric.items() if len(values) > 1}


def _measure(value: float, resampled_R: NDArray[np.float64]) -> Measure:
    defined = resampled_R[~np.isnan(resampled_R)]
    if not defined.size:
        return Measure(value, float("nan"), float("nan"))
    low, high = np.percentile(defined, BOUNDS)
    return Measure(value, float(low), float(high))
