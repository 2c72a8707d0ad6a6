"""Differences between kinds of one size that exceed noise: paired tests of every task over the same items."""

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

LEVEL = 0.05
"""Differences whose adjusted p-value is below this exceed noise."""

_TESTED = ("classification", "retrieval", "generative", "bias")
_MANY_ITEMS = 5000
"""Above this many items fewer bootstrap resamples give the interval precisely enough."""
_ENUMERATED = 16
"""Up to this many differing items all sign patterns are enumerated; beyond, _FLIPS random ones are drawn."""
_FLIPS = 100_000
_FLIPS_AT_ONCE = 1 << 22
"""Signs drawn at once."""

Z_BOUND = NormalDist().inv_cdf(0.975)
"""The two-sided 95% bound of the normal distribution."""
_T_BOUNDS = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""The same bound of Student's t with 1, 2, ... degrees of freedom."""


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
    """The p-value, adjusted for all comparisons."""

    @property
    def exceeds_noise(self) -> bool:
        """Whether the interval excludes 0 and the adjusted p-value is below :data:`LEVEL`."""
        return self.excludes_zero and self.adjusted < LEVEL

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval of this difference alone excludes 0."""
        return self.points.low > 0 or self.points.high < 0

    def in_words(self) -> str:
        """Return the conclusion as a phrase."""
        value = self.points.value
        higher, lower = (self.first, self.second) if value > 0 else (self.second, self.first)
        low, high = sorted(abs(bound) for bound in (self.points.low, self.points.high))
        if self.exceeds_noise:
            return f"{higher.kind} above {lower.kind} by {abs(value):.1f} points [{low:.1f}, {high:.1f}]"
        return f"no difference that exceeds noise ({self.first.kind} minus {self.second.kind}: {self.points_text()})"

    def points_text(self) -> str:
        """Return the signed difference with its interval: ``+1.0 [-0.5, +2.5]``."""
        return f"{self.points.value:+.1f} [{self.points.low:+.1f}, {self.points.high:+.1f}]"


@dataclass(frozen=True)
class Untested:
    """Two models of one size with a common task, and why their difference cannot be tested."""

    suite: str
    task: str
    first: ComparedModel
    second: ComparedModel
    reason: str


def find_differences(models: Sequence[ComparedModel]) -> tuple[list[Difference], list[Untested]]:
    """Compare all pairs of kinds of one size in every common task, and adjust the p-values over all comparisons."""
    differences: list[Difference] = []
    untested: list[Untested] = []
    for group in size_groups(models):
        for suite in _TESTED:
            for first, second in combinations(group, 2):
                for task in sorted(set(first.suites.get(suite, {})) & set(second.suites.get(suite, {}))):
                    outcome = _compare(suite, task, first, second)
                    if isinstance(outcome, Difference):
                        differences.append(outcome)
                    else:
                        untested.append(outcome)
    adjusted = holm([difference.p for difference in differences])
    return [replace(one, adjusted=p) for one, p in zip(differences, adjusted, strict=True)], untested


def unlike_settings(suite: str, task: str, models: Sequence[ComparedModel]) -> list[str]:
    """Return the names of the settings in which models differ in a task."""
    settings = [model.settings[suite][task] for model in models]
    names = sorted({name for one in settings for name in one})
    return [name for name in names if any(one.get(name) != settings[0].get(name) for one in settings)]


def _compare(suite: str, task: str, first: ComparedModel, second: ComparedModel) -> Difference | Untested:
    results = first.suites[suite][task], second.suites[suite][task]
    if first.settings[suite][task] != second.settings[suite][task]:
        unlike = unlike_settings(suite, task, [first, second])
        return Untested(suite, task, first, second, f"measured with unlike settings: {', '.join(unlike)}")
    metric = _paired_metric(*results)
    if metric is None:
        return Untested(
            suite, task, first, second, f"{results[0].main} is not a mean over items, nor is another metric"
        )
    items = [np.asarray(result.items[metric], dtype=np.float64) for result in results]
    if items[0].shape != items[1].shape:
        return Untested(suite, task, first, second, f"{items[0].size} and {items[1].size} items")
    kept = np.isfinite(items[0]) & np.isfinite(items[1])
    if not kept.any():
        return Untested(suite, task, first, second, "no item has a score in both")
    points, p = _paired_test(items[0][kept].tolist(), items[1][kept].tolist(), _seed_half_width(results, metric))
    return Difference(suite, task, metric, first, second, points, p)


def _paired_metric(first: TaskResult, second: TaskResult) -> str | None:
    """Return the main metric if it has items, else the first share that has; None if there is none."""
    shared = [name for name in sorted(set(first.items) & set(second.items)) if is_share(name)]
    return first.main if first.main in shared else next(iter(shared), None)


def _paired_test(first: Sequence[float], second: Sequence[float], half_width: float) -> tuple[Measure, float]:
    """Return the difference in points with its interval, and its p-value.

    Args:
        first: the scores of one model.
        second: those of the other model, item by item.
        half_width: half the 95% interval of an independent error, such as that of the seeds.
    """
    resamples = 10_000 if len(first) <= _MANY_ITEMS else 2000
    difference, p = paired_difference(first, second, resamples=resamples), sign_flip_p(first, second)
    if half_width:  # independent errors add in quadrature
        below = math.hypot(difference.value - difference.low, half_width)
        above = math.hypot(difference.high - difference.value, half_width)
        difference = Measure(difference.value, difference.value - below, difference.value + above)
        p = max(p, two_sided_p(difference.value, (difference.high - difference.low) / (2 * Z_BOUND)))
    return Measure(100 * difference.value, 100 * difference.low, 100 * difference.high), p


def _seed_half_width(results: Sequence[TaskResult], metric: str) -> float:
    """Return half the 95% interval that the choice of seeds gives to a difference; 0 without scores by seed.

    The variances of the means over seeds add. They are estimated from few seeds, hence Student's t and not 1.96.
    """
    by_model = [result.details.get("by_seed", {}).get(metric) or () for result in results]
    by_model = [scores for scores in by_model if len(scores) > 1]
    if not by_model:
        return 0.0
    variance = sum(stdev(scores) ** 2 / len(scores) for scores in by_model)
    return t_bound(sum(len(scores) - 1 for scores in by_model)) * math.sqrt(variance)


def sign_flip_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the p-value of the two-sided sign-flip (paired permutation) test of Fisher.

    Under the null hypothesis every pattern of signs of the differences is equally likely. For items that are right or
    wrong this is McNemar's exact test, at any number of items. Other scores are exact up to 16 differing items, and
    beyond that estimated from random patterns, always the same ones. Items with equal scores have no effect.

    Raises:
        ValueError: the two have different numbers of items.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} items cannot be paired")
    differences_N = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    differences_N = differences_N[differences_N != 0]
    total = abs(float(differences_N.sum()))
    if differences_N.size == 0:
        return 1.0
    sizes_N = np.abs(differences_N)
    if (sizes_N == sizes_N[0]).all():
        return _binomial_p(sizes_N.size, round(total / float(sizes_N[0])))
    if sizes_N.size <= _ENUMERATED:
        sums = _signed_sums(sizes_N)
        return float(np.mean(np.abs(sums) >= total * (1 - 1e-12)))
    return _random_flips_p(sizes_N, total)


def _binomial_p(items: int, surplus: int) -> float:
    """Return the probability that the heads and tails of ``items`` fair coins differ by ``surplus`` or more."""
    patterns, tail = 1, 0  # binomial coefficients, exact
    for tails in range((items - surplus) // 2 + 1):
        tail += patterns
        patterns = patterns * (items - tails) // (tails + 1)
    return min(1.0, tail / 2 ** (items - 1))


def _random_flips_p(sizes_N: NDArray[np.float64], total: float) -> float:
    """Return the share of random sign patterns whose sum is ``total`` or more, the observed pattern included."""
    random, reached = np.random.default_rng(0), 1
    for start in range(0, _FLIPS, step := max(1, _FLIPS_AT_ONCE // sizes_N.size)):
        count = min(step, _FLIPS - start)
        signs = 2 * random.integers(0, 2, (count, sizes_N.size), dtype=np.int8) - 1
        reached += int((np.abs(signs @ sizes_N) >= total * (1 - 1e-12)).sum())
    return reached / (_FLIPS + 1)


def _signed_sums(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sums of the sizes under all patterns of signs."""
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums + size, sums - size])
    return sums


def two_sided_p(difference: float, standard_error: float) -> float:
    """Return the probability that a normal variable deviates from 0 by ``difference`` or more."""
    if standard_error == 0:
        return 1.0 if difference == 0 else 0.0
    return 2 * NormalDist().cdf(-abs(difference) / standard_error)


def t_bound(freedom: int) -> float:
    """Return the two-sided 95% bound of Student's t with ``freedom`` degrees of freedom."""
    if freedom <= len(_T_BOUNDS):
        return _T_BOUNDS[freedom - 1]
    z = Z_BOUND  # the Cornish-Fisher expansion, exact to 0.001 here
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for the number of tests, in their order (Holm 1979).

    The probability that any true null hypothesis has an adjusted value below 0.05 is below 5%.
    """
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted
