"""Metrics by hand and against the definitions; intervals over items and seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from megatron_ettin.evaluation.suites.classification import metrics
from megatron_ettin.evaluation.suites.classification.metrics import measure

TARGETS = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
TOLD = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 0])
"""3 true and 1 false positive, 5 true and 1 false negative."""


@pytest.mark.slow  # needs the extra [eval]
def test_metrics_of_classes_by_hand() -> None:
    assert metrics.accuracy(TARGETS, TOLD) == pytest.approx(8 / 10)
    assert metrics.f1(TARGETS, TOLD) == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert metrics.matthews(TARGETS, TOLD) == pytest.approx((3 * 5 - 1 * 1) / math.sqrt(4 * 4 * 6 * 6))
    assert metrics.matthews(TARGETS, np.zeros(10, int)) == 0
    assert metrics.f1(np.zeros(4, int), np.zeros(4, int)) == 0


@pytest.mark.slow  # needs the extra [eval]
def test_metrics_of_figures_by_hand() -> None:
    targets, told = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 40.0])
    # Ranks 1 3 2 4: squared differences 0 1 1 0, so 1 - 6 * 2 / (4 * 15).
    assert metrics.spearman(targets, told) == pytest.approx(0.8)
    centred, by = targets - 2.5, told - 11.5
    assert metrics.pearson(targets, told) == pytest.approx(centred @ by / math.sqrt((centred @ centred) * (by @ by)))
    assert metrics.pearson(targets, np.ones(4)) == metrics.spearman(targets, np.ones(4)) == 0


def test_the_interval_of_one_trial_is_the_binomial_one() -> None:
    right = np.zeros(400, int)
    right[:300] = 1
    found = measure(metrics.accuracy, np.ones(400, int), right[None], resamples=4000)
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert found.value == 0.75
    assert found.low == pytest.approx(0.75 - half, abs=0.006)
    assert found.high == pytest.approx(0.75 + half, abs=0.006)


def test_the_interval_covers_seeds_too() -> None:
    """Two trials that tell all items right and wrong: a resample is of the first only, the second only, or of both."""
    ones = np.ones(50, int)
    found = measure(metrics.accuracy, ones, np.stack([ones, 0 * ones]))
    assert (found.low, found.value, found.high) == (0.0, 0.5, 1.0)


@pytest.mark.slow  # needs the extra [eval]
def test_an_interval_is_the_same_each_time() -> None:
    drawn = np.random.default_rng(3)
    targets, told = drawn.integers(2, size=40), drawn.integers(2, size=(3, 40))
    found, again = (measure(metrics.matthews, targets, told, resamples=50) for _ in range(2))
    assert found == again
    assert found.value == pytest.approx(np.mean([metrics.matthews(targets, row) for row in told]))
    assert found.low < found.value < found.high
