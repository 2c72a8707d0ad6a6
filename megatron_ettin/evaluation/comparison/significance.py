"""When a difference is more than noise: a test of paired items, and care for how many of them are made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

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
