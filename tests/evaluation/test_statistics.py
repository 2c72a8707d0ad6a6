"""Bootstrap intervals, against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from megatron_ettin.evaluation.statistics import bootstrap_measure, mean_measure, paired_difference


def test_three_items_by_hand() -> None:
    """Resamples of (0, 0, 1) have k ones with probability C(3, k) (1/3)^k (2/3)^(3-k): 8, 12, 6 and 1 of 27.

    P(k <= 0) = 0.296 > 0.025, so the lower bound is 0; P(k <= 2) = 0.963 < 0.975, so the upper one is 1.
    """
    measure = mean_measure([0, 0, 1])
    assert measure.value == pytest.approx(1 / 3)
    assert (measure.low, measure.high) == (0.0, 1.0)


def test_five_items_by_hand() -> None:
    """Of (0, 0, 0, 0, 1), k ones: P(k <= 2) = 0.94208, P(k <= 3) = 0.99328, so the upper bound is 3/5."""
    measure = mean_measure([0, 0, 0, 0, 1], resamples=20_000)
    assert (measure.low, measure.high) == pytest.approx((0.0, 0.6))


def test_interval_of_many_items_is_normal() -> None:
    items = [1.0] * 300 + [0.0] * 700
    measure = mean_measure(items, resamples=20_000)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    assert measure.low == pytest.approx(0.3 - half, abs=0.0015)
    assert measure.high == pytest.approx(0.3 + half, abs=0.0015)


@pytest.mark.slow  # needs the extra [eval]
def test_matches_scipy() -> None:
    from scipy import stats

    items = np.random.default_rng(3).gamma(2.0, size=200)
    theirs = stats.bootstrap((items,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    ours = mean_measure(items.tolist(), resamples=20_000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_large_samples_are_resampled_in_chunks() -> None:
    items = np.random.default_rng(0).normal(size=30_000)
    measure = mean_measure(items.tolist(), resamples=300)
    assert measure.high - measure.low == pytest.approx(2 * 1.96 / math.sqrt(30_000), rel=0.25)


def test_is_deterministic_and_depends_on_the_seed() -> None:
    items = np.random.default_rng(1).normal(size=50).tolist()
    assert mean_measure(items) == mean_measure(items)
    assert mean_measure(items, seed=1) != mean_measure(items)


def test_bootstrap_of_a_mean_matches_mean_measure() -> None:
    items = np.random.default_rng(2).normal(size=80)
    ours = bootstrap_measure(lambda indices: float(items[indices].mean()), 80, resamples=5000)
    expected = mean_measure(items.tolist(), resamples=5000)
    assert ours.value == pytest.approx(expected.value)
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_undefined_resamples_are_left_out() -> None:
    labels, scores = np.array([0, 0, 1, 1.0]), np.array([0.1, 0.4, 0.35, 0.8])

    def correlation(indices: np.ndarray) -> float:
        if len(set(labels[indices])) < 2 or len(set(scores[indices])) < 2:
            return math.nan
        return float(np.corrcoef(labels[indices], scores[indices])[0, 1])

    measure = bootstrap_measure(correlation, 4)
    assert -1 <= measure.low < measure.value < measure.high <= 1
    never = bootstrap_measure(lambda indices: math.nan, 4, resamples=10)
    assert math.isnan(never.value)
    assert math.isnan(never.low)


def test_paired_difference_is_narrower_than_either() -> None:
    """Two models that differ by 0.1 on every item: the difference is certain though each figure is not."""
    first = np.random.default_rng(4).normal(size=100)
    measure = paired_difference((first + 0.1).tolist(), first.tolist())
    assert (measure.value, measure.low, measure.high) == pytest.approx((0.1, 0.1, 0.1))


def test_paired_difference_of_two_items_by_hand() -> None:
    """Differences 1 and 0: resamples have means 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4."""
    measure = paired_difference([1, 1], [0, 1])
    assert (measure.value, measure.low, measure.high) == (0.5, 0.0, 1.0)


@pytest.mark.parametrize("wrong", [lambda: mean_measure([]), lambda: paired_difference([1.0], [1.0, 2.0])])
def test_empty_or_unequal_samples_are_rejected(wrong: object) -> None:
    with pytest.raises(ValueError, match="items"):
        wrong()  # type: ignore[operator]
