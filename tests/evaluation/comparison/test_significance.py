"""Paired tests against counting by hand and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from megatron_ettin.evaluation.comparison.differences import holm, sign_flip_p, t_bound, two_sided_p


def test_sign_flips_by_hand() -> None:
    # Differences 1, 2, 3: of the 8 patterns of signs only +++ and --- have a sum of 6 or more.
    assert sign_flip_p([1, 2, 3], [0, 0, 0]) == 2 / 8
    # Differences 1, 2, -3 sum to 0: all eight sums are at least as far from 0.
    assert sign_flip_p([1, 2, 0], [0, 0, 3]) == 1.0
    # Differences 1, 1, -3 sum to -1: the sums are 5, 3, 3, -1 and their opposites, all at least as far from 0.
    assert sign_flip_p([1, 1, 0], [0, 0, 3]) == 1.0
    # Differences 3, 1, -1 sum to 3: the sums are +-5, +-3, +-3, +-1, six of eight at least as far from 0.
    assert sign_flip_p([3, 1, 0], [0, 0, 1]) == 6 / 8


def test_binary_items_give_mcnemars_exact_test() -> None:
    # 9 against 2 of 11: C(11, 0) + C(11, 1) + C(11, 2) = 67 of 2048 patterns on either side.
    first = [1.0] * 9 + [0.0] * 2 + [1.0] * 80
    second = [0.0] * 9 + [1.0] * 2 + [1.0] * 80
    assert sign_flip_p(first, second) == 2 * 67 / 2048


@pytest.mark.slow  # needs the extra [eval]
def test_many_items_agree_with_scipy_permutation_test() -> None:
    from scipy import stats

    generator = np.random.default_rng(3)
    first = generator.normal(0.12, 1, 60)
    expected = stats.permutation_test(
        (first, np.zeros(60)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        n_resamples=20_000,
        rng=generator,
    )
    assert sign_flip_p(first.tolist(), [0.0] * 60) == pytest.approx(expected.pvalue, abs=0.015)
    assert 0.02 < expected.pvalue < 0.98, "a p-value at either end would hide errors"


def test_equal_and_unpaired_items() -> None:
    assert sign_flip_p([0.5, 1], [0.5, 1]) == 1.0
    with pytest.raises(ValueError, match="2 and 1 items"):
        sign_flip_p([1, 0], [1])


def test_two_sided_p() -> None:
    assert two_sided_p(1.959964, 1) == pytest.approx(0.05, abs=1e-6)
    assert two_sided_p(-1.959964, 1) == two_sided_p(1.959964, 1)
    assert (two_sided_p(0, 0), two_sided_p(0.1, 0)) == (1.0, 0.0)


@pytest.mark.slow  # needs the extra [eval]
def test_student_t_bounds_equal_scipys() -> None:
    from scipy import stats

    bounds = [t_bound(freedom) for freedom in range(1, 60)]
    assert bounds == pytest.approx([stats.t.ppf(0.975, freedom) for freedom in range(1, 60)], abs=0.001)


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04; the last is raised to the third.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.03]) == [0.03]


def test_holm_keeps_false_claims_rare() -> None:
    generator = np.random.default_rng(0)
    false_claims = [min(holm(generator.random(20).tolist())) < 0.05 for _ in range(2000)]
    assert np.mean(false_claims) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
    assert np.mean(false_claims) > 0.03, "the adjustment is not needlessly strict"
