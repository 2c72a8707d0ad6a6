"""Which models differ in which tasks by more than noise: every pair of kinds of one size, on the same items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import NormalDist, stdev

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.evaluation.comparison.models import ComparedModel, size_groups
from megatron_ettin.evaluation.comparison.scores import is_share
from megatron_ettin.evaluation.results import Measure, TaskResult
from megatron_ettin.evaluation.statistics import paired_difference

_ENUMERATED = 16
"""Up to so many items that differ all sign patterns are counted; beyond, their sum is close to normal."""

Z_BOUND = NormalDist().inv_cdf(0.975)
"""What 95% of normal figures lie within, to each side."""
_T_BOUNDS = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""The same for Student's t with 1, 2, ... degrees of freedom, as tables have it."""


def sign_flip_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Return how likely paired scores lie as far apart as they do, or farther, if it were chance which is which.

    The two-sided sign-flip (paired permutation) test of Fisher: every pattern of signs of the differences is equally
    likely. With items that are right or wrong it is McNemar's exact test. Items that do not differ say nothing.

    Raises:
        ValueError: there are not as many items in one as in the other.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} items cannot be paired")
    differences_N = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    differences_N = differences_N[differences_N != 0]
    total = abs(float(differences_N.sum()))
    if differences_N.size == 0:
        return 1.0
    if differences_N.size <= _ENUMERATED:
        sums = _all_signed_sums(np.abs(differences_N))
        return float(np.mean(np.abs(sums) >= total * (1 - 1e-12)))
    return two_sided_p(total, math.sqrt(float(np.square(differences_N).sum())))


def two_sided_p(difference: float, standard_error: float) -> float:
    """Return the chance that a normal figure around 0 is as far from it as ``difference``, or farther."""
    if standard_error == 0:
        return 1.0 if difference == 0 else 0.0
    return 2 * NormalDist().cdf(-abs(difference) / standard_error)


def t_bound(freedom: int) -> float:
    """Return Student's t that 95% of figures with so many degrees of freedom lie within, to each side."""
    if freedom <= len(_T_BOUNDS):
        return _T_BOUNDS[freedom - 1]
    z = Z_BOUND  # the expansion of Cornish and Fisher, to 0.001 here
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for how many there are, in their order (Holm 1979).

    Whatever is below 0.05 afterwards: the chance that even one of them is no difference is below 5%.
    """
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted


def _all_signed_sums(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums + size, sums - size])
    return sums


LEVEL = 0.05
"""Adjusted p-values below it are called more than noise."""

_TESTED = ("classification", "retrieval", "generative", "bias")
_MANY_ITEMS = 5000
"""Above it fewer resamples do: the interval's own error is small beside what they cost."""


@dataclass(frozen=True)
class Difference:
    """Two models of one size in one task."""

    suite: str
    task: str
    metric: str
    first: ComparedModel
    second: ComparedModel
    points: Measure
    """First minus second in percentage points, with the 95% interval of this difference alone."""
    p: float
    adjusted: float = 1.0
    """The p-value with all comparisons counted."""

    @property
    def exceeds_noise(self) -> bool:
        """Whether it stands among all comparisons that were made, and its own interval leaves 0 out."""
        return self.stands_alone and self.adjusted < LEVEL

    @property
    def stands_alone(self) -> bool:
        """Whether its own interval leaves 0 out."""
        return self.points.low > 0 or self.points.high < 0

    def in_words(self) -> str:
        """Return what a reader may conclude."""
        value = self.points.value
        higher, lower = (self.first, self.second) if value > 0 else (self.second, self.first)
        low, high = sorted(abs(bound) for bound in (self.points.low, self.points.high))
        if self.exceeds_noise:
            return f"{higher.kind} above {lower.kind} by {abs(value):.1f} points [{low:.1f}, {high:.1f}]"
        return f"no difference that exceeds noise ({self.first.kind} minus {self.second.kind}: {self.points_text()})"

    def points_text(self) -> str:
        """Return the difference with its interval, signed: ``+1.0 [-0.5, +2.5]``."""
        return f"{self.points.value:+.1f} [{self.points.low:+.1f}, {self.points.high:+.1f}]"


@dataclass(frozen=True)
class Untested:
    """Two models of one size in one task that both have, and why nothing can be said."""

    suite: str
    task: str
    first: ComparedModel
    second: ComparedModel
    reason: str


def find_differences(models: Sequence[ComparedModel]) -> tuple[list[Difference], list[Untested]]:
    """Compare all pairs of kinds of one size in every task that both have; p-values are adjusted over all of them."""
    found: list[Difference] = []
    untested: list[Untested] = []
    for group in size_groups(models):
        for suite in _TESTED:
            for first, second in combinations(group, 2):
                for task in sorted(set(first.suites.get(suite, {})) & set(second.suites.get(suite, {}))):
                    outcome = _compare(suite, task, first, second)
                    if isinstance(outcome, Difference):
                        found.append(outcome)
                    else:
                        untested.append(outcome)
    adjusted = holm([difference.p for difference in found])
    return [replace(one, adjusted=p) for one, p in zip(found, adjusted, strict=True)], untested


def _compare(suite: str, task: str, first: ComparedModel, second: ComparedModel) -> Difference | Untested:
    results = first.suites[suite][task], second.suites[suite][task]
    if first.settings[suite][task] != second.settings[suite][task]:
        unlike = unlike_settings(suite, task, [first, second])
        return Untested(suite, task, first, second, f"measured with unlike settings: {', '.join(unlike)}")
    metric = _paired_metric(*results)
    if metric is None:
        return Untested(suite, task, first, second, f"{results[0].main} is no mean over items, nor is another metric")
    items = [np.asarray(result.items[metric], dtype=np.float64) for result in results]
    if items[0].shape != items[1].shape:
        return Untested(suite, task, first, second, f"{items[0].size} and {items[1].size} items")
    kept = np.isfinite(items[0]) & np.isfinite(items[1])
    if not kept.any():
        return Untested(suite, task, first, second, "no item has a score in both")
    return _difference(
        suite, task, metric, (first, second), (items[0][kept].tolist(), items[1][kept].tolist()), results
    )


def unlike_settings(suite: str, task: str, models: Sequence[ComparedModel]) -> list[str]:
    """Return the names of the settings in which models differ in a task."""
    told = [model.settings[suite][task] for model in models]
    names = sorted({name for settings in told for name in settings})
    return [name for name in names if any(settings.get(name) != told[0].get(name) for settings in told)]


def _paired_metric(first: TaskResult, second: TaskResult) -> str | None:
    """Return the main metric where it has items, else the first share that has; None where there is none."""
    shared = [name for name in sorted(set(first.items) & set(second.items)) if is_share(name)]
    return first.main if first.main in shared else next(iter(shared), None)


def _difference(
    suite: str,
    task: str,
    metric: str,
    models: tuple[ComparedModel, ComparedModel],
    items: tuple[Sequence[float], Sequence[float]],
    results: tuple[TaskResult, TaskResult],
) -> Difference:
    resamples = 10_000 if len(items[0]) <= _MANY_ITEMS else 2000
    difference, p = paired_difference(*items, resamples=resamples), sign_flip_p(*items)
    if half_width := _seed_half_width(results, metric):
        difference = _widened(difference, half_width)
        p = max(p, two_sided_p(difference.value, (difference.high - difference.low) / (2 * Z_BOUND)))
    points = Measure(100 * difference.value, 100 * difference.low, 100 * difference.high)
    return Difference(suite, task, metric, *models, points, p)


def _seed_half_width(results: Sequence[TaskResult], metric: str) -> float:
    """Return half the 95% interval that training with other seeds gives a difference; 0 where they were not told.

    Variances of the means over seeds add up. They are known from few seeds only: Student's t takes the place of 1.96.
    """
    told = [scores for result in results if len(scores := result.details.get("by_seed", {}).get(metric) or ()) > 1]
    if not told:
        return 0.0
    variance = sum(stdev(scores) ** 2 / len(scores) for scores in told)
    return t_bound(sum(len(scores) - 1 for scores in told)) * math.sqrt(variance)


def _widened(measure: Measure, half_width: float) -> Measure:
    """Add an independent error to a measure's interval: distances add up as the roots of squares do."""
    below = math.hypot(measure.value - measure.low, half_width)
    above = math.hypot(measure.high - measure.value, half_width)
    return Measure(measure.value, measure.value - below, measure.value + above)
