"""Confidence in figures: percentile bootstrap over items (Efron 1979), alone and paired."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.evaluation.results import Measure

BOUNDS = (2.5, 97.5)
"""Percentiles of the resampled figures that bound 95% of them."""

_INDICES_AT_A_TIME = 4_000_000
"""Bounds memory: 32 MB of indices."""
_FEW_VALUES = 64
"""Up to so many different scores, as of items that are right or wrong, resamples are drawn by value: much faster."""


def mean_measure(items: Sequence[float], *, resamples: int = 2000, seed: int = 0) -> Measure:
    """Return the mean of items with its 95% percentile bootstrap interval.

    Raises:
        ValueError: there are no items.
    """
    scores_N = np.asarray(items, dtype=np.float64)
    if scores_N.ndim != 1 or not scores_N.size:
        raise ValueError(f"items of shape {scores_N.shape}: must be a row of at least one")
    num_items, generator = scores_N.size, np.random.default_rng(seed)
    values_U, counts_U = np.unique(scores_N, return_counts=True)
    if values_U.size <= _FEW_VALUES:  # how often each value is drawn says all
        drawn_RU = generator.multinomial(num_items, counts_U / num_items, size=resamples)
        return _measure(float(scores_N.mean()), drawn_RU @ values_U / num_items)
    at_a_time = max(1, _INDICES_AT_A_TIME // num_items)
    means: list[NDArray[np.float64]] = []
    for start in range(0, resamples, at_a_time):
        shape = (min(at_a_time, resamples - start), num_items)
        means.append(scores_N[generator.integers(num_items, size=shape)].mean(axis=1))
    return _measure(float(scores_N.mean()), np.concatenate(means))


def bootstrap_measure(
    metric: Callable[[NDArray[np.int64]], float], num_items: int, *, resamples: int = 1000, seed: int = 0
) -> Measure:
    """Return a metric that is no mean, with its interval; ``metric`` gets the indices of the items to compute it on.

    Resamples in which the metric is not defined (NaN, as a correlation where all items are the same) are left out.

    Raises:
        ValueError: there are no items.
    """
    if num_items < 1:
        raise ValueError("there are no items to resample")
    generator = np.random.default_rng(seed)
    drawn = (generator.integers(num_items, size=num_items) for _ in range(resamples))
    figures = np.array([metric(indices) for indices in drawn], dtype=np.float64)
    return _measure(float(metric(np.arange(num_items))), figures)


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, resamples: int = 10_000, seed: int = 0
) -> Measure:
    """Return the mean of ``first - second`` over the same items with its 95% interval; noise if it holds 0.

    Raises:
        ValueError: there are no items, or not as many in one as in the other.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} items cannot be paired")
    differences_N = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return mean_measure(differences_N.tolist(), resamples=resamples, seed=seed)


def spread_over_seeds(by_metric: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the standard deviation of each metric's figures, one a seed; of a single one there is none."""
    return {metric: float(np.std(told, ddof=1)) for metric, told in by_metric.items() if len(told) > 1}


def _measure(value: float, resampled_R: NDArray[np.float64]) -> Measure:
    defined = resampled_R[~np.isnan(resampled_R)]
    if not defined.size:
        return Measure(value, float("nan"), float("nan"))
    low, high = np.percentile(defined, BOUNDS)
    return Measure(value, float(low), float(high))
