"""Metrics against values by hand, and intervals over items and seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from megatron_ettin.evaluation.suites.classification import metrics
from megatron_ettin.evaluation.suites.classification.metrics import measure

TARGETS = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
PREDICTED = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 0])
"""3 true and 1 false positive, 5 true and 1 false negative."""


@pytest.mark.slow  # needs the extra [eval]
def test_metrics_of_classes_by_hand() -> None:
    assert metrics.accuracy(TARGETS, PREDICTED) == pytest.approx(8 / 10)
    assert metrics.f1(TARGETS, PREDICTED) == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert metrics.matthews(TARGETS, PREDICTED) == pytest.approx((3 * 5 - 1 * 1) / math.sqrt(4 * 4 * 6 * 6))
    assert metrics.matthews(TARGETS, np.zeros(10, int)) == 0
    assert metrics.f1(np.zeros(4, int), np.zeros(4, int)) == 0


@pytest.mark.slow  # needs the extra [eval]
def test_correlations_by_hand() -> None:
    targets, predicted = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 40.0])
    # Ranks 1 3 2 4: squared differences 0 1 1 0, so 1 - 6 * 2 / (4 * 15).
    assert metrics.spearman(targets, predicted) == pytest.approx(0.8)
    centred, by = targets - 2.5, predicted - 11.5
    assert metrics.pearson(targets, predicted) == pytest.approx(
        centred @ by / math.sqrt((centred @ centred) * (by @ by))
    )
    assert metrics.pearson(targets, np.ones(4)) == metrics.spearman(targets, np.ones(4)) == 0


def test_interval_of_one_trial_is_binomial() -> None:
    right = np.zeros(400, int)
    right[:300] = 1
    interval = measure(metrics.accuracy, np.ones(400, int), right[None], resamples=4000)
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert interval.value == 0.75
    assert interval.low == pytest.approx(0.75 - half, abs=0.006)
    assert interval.high == pytest.approx(0.75 + half, abs=0.006)


def test_interval_covers_seeds() -> None:
    """One trial is right and one is wrong on all items; a resample contains either or both."""
    ones = np.ones(50, int)
    interval = measure(metrics.accuracy, ones, np.stack([ones, 0 * ones]))
    assert (interval.low, interval.value, interval.high) == (0.0, 0.5, 1.0)


@pytest.mark.slow  # needs the extra [eval]
def test_interval_is_deterministic() -> None:
    drawn = np.random.default_rng(3)
    targets, predicted = drawn.integers(2, size=40), drawn.integers(2, size=(3, 40))
    interval, again = (measure(metrics.matthews, targets, predicted, resamples=50) for _ in range(2))
    assert interval == again
    assert interval.value == pytest.approx(np.mean([metrics.matthews(targets, row) for row in predicted]))
    assert interval.low < interval.value < interval.high
