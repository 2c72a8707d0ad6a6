"""Differences that exceed noise and their paired tests, against arithmetic by hand and scipy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from megatron_ettin.evaluation.comparison.differences import (
    Difference,
    Untested,
    find_differences,
    holm,
    sign_flip_p,
    t_bound,
    two_sided_p,
)
from megatron_ettin.evaluation.comparison.models import ComparedModel, compared_model
from megatron_ettin.evaluation.results import Measure, ModelResults, TaskResult

from .results import answers, result

NO_ITEMS = TaskResult({"f1": Measure(0.5, 0.4, 0.6)}, "f1")


def model(
    kind: str, task: TaskResult, *, parameters: int = 1000, settings: Mapping[str, Any] | None = None, name: str = "rte"
) -> ComparedModel:
    description = {"kind": kind, "parameters": parameters, "folder": "/nowhere", "checksum": kind}
    suites, of_tasks = {"classification": {name: task}}, {"classification": {name: settings or {"seeds": [1]}}}
    return compared_model(ModelResults(f"{kind}-{parameters}", description, suites, of_tasks))


def compare(first: TaskResult, second: TaskResult) -> Difference:
    (difference,), untested = find_differences([model("encoder", first), model("decoder", second)])
    assert untested == []
    return difference


def test_clear_difference_in_words() -> None:
    # 60 of 400 items differ, all in one direction: 15 points with a standard error of sqrt(0.15 * 0.85 / 400) = 1.785.
    difference = compare(result(answers(0.75)), result(answers(0.60)))
    assert difference.points.value == pytest.approx(15.0)
    assert difference.points.low == pytest.approx(15 - 1.96 * 1.785, abs=0.3)
    assert difference.points.high == pytest.approx(15 + 1.96 * 1.785, abs=0.3)
    assert difference.exceeds_noise
    low, high = difference.points.low, difference.points.high
    assert difference.in_words() == f"encoder above decoder by 15.0 points [{low:.1f}, {high:.1f}]"


def test_words_name_the_better_kind_first() -> None:
    difference = compare(result(answers(0.60)), result(answers(0.75)))
    assert difference.in_words().startswith("decoder above encoder by 15.0 points [1")
    assert difference.points.value == pytest.approx(-15.0)
    assert difference.points_text().startswith("-15.0 [-18")


def test_noise_in_words() -> None:
    # 100 items are right in the first only, and 100 in the second only.
    difference = compare(result(answers(0.5, 200)), result(answers(0.5, 200, shift=100)))
    assert not difference.exceeds_noise
    assert difference.p == 1.0
    assert difference.in_words().startswith("no difference that exceeds noise (encoder minus decoder: +0.0 [-1")


def test_pairing_finds_what_single_intervals_would_hide() -> None:
    """Scores vary widely over items, and one model is slightly better in every item."""
    generator = np.random.default_rng(0)
    scores = generator.random(200)
    difference = compare(result((scores + 0.02).tolist()), result(scores.tolist()))
    assert difference.exceeds_noise
    assert (difference.points.low, difference.points.high) == pytest.approx((2.0, 2.0))


def test_p_values_are_adjusted_for_the_number_of_comparisons() -> None:
    # 8 items differ, all in one direction: 2 / 2^8 = 0.0078 alone, and 0.0547 among 7 comparisons.
    better, worse = result([1.0] * 8 + [0.0] * 92), result([0.0] * 100)
    two = [model("encoder", better), model("decoder", worse)]
    (alone,), _ = find_differences(two)
    assert (alone.p, alone.adjusted) == (2 / 2**8, 2 / 2**8)
    assert alone.exceeds_noise
    same = [
        model(kind, worse, parameters=size)
        for size in (2000, 3000, 4000, 5000, 6000, 7000)
        for kind in ("encoder", "decoder")
    ]
    among, _ = find_differences([*two, *same])
    assert len(among) == 7
    assert among[0].adjusted == 7 * 2 / 2**8
    assert among[0].excludes_zero
    assert not among[0].exceeds_noise


def test_seeds_widen_the_interval() -> None:
    def with_seeds(share: float, scores: Sequence[float]) -> TaskResult:
        return result(answers(share), details={"by_seed": {"accuracy": list(scores)}})

    stable = compare(with_seeds(0.66, [0.66, 0.66, 0.66]), with_seeds(0.60, [0.60, 0.60, 0.60]))
    assert stable.points == compare(result(answers(0.66)), result(answers(0.60))).points
    assert stable.exceeds_noise
    # Standard deviations 0.06 over 3 seeds each: variances of the means 0.0012, together 0.0024; 4 degrees of freedom.
    unstable = compare(with_seeds(0.66, [0.60, 0.66, 0.72]), with_seeds(0.60, [0.54, 0.60, 0.66]))
    half = 2.776 * math.sqrt(2 * 0.06**2 / 3)
    assert unstable.points.value - unstable.points.low == pytest.approx(
        100 * math.hypot(half, (stable.points.value - stable.points.low) / 100)
    )
    assert not unstable.exceeds_noise
    assert unstable.p > 0.05 > stable.p


def test_all_pairs_of_one_size_are_compared() -> None:
    kinds = ("encoder", "decoder", "encoder-from-decoder", "decoder-from-encoder")
    task = result(answers(0.5))
    models = [model(kind, task, parameters=size) for size in (1000, 2000) for kind in kinds]
    differences, _ = find_differences(models)
    assert len(differences) == 2 * 6
    assert all(one.first.parameters == one.second.parameters for one in differences)


@pytest.mark.parametrize(
    ("second", "settings", "reason"),
    [
        (result(answers(0.5)), {"seeds": [1], "data": "b"}, "measured with unlike settings: data"),
        (result(answers(0.5, 300)), {"seeds": [1], "data": "a"}, "400 and 300 items"),
        (NO_ITEMS, {"seeds": [1], "data": "a"}, "accuracy is not a mean over items, nor is another metric"),
        (result([math.nan] * 400), {"seeds": [1], "data": "a"}, "no item has a score in both"),
    ],
)
def test_unpaired_results_are_listed_with_the_reason(
    second: TaskResult, settings: Mapping[str, Any], reason: str
) -> None:
    first = model("encoder", result(answers(0.5)), settings={"seeds": [1], "data": "a"})
    differences, (untested,) = find_differences([first, model("decoder", second, settings=settings)])
    assert differences == []
    assert isinstance(untested, Untested)
    assert untested.reason == reason


def test_metric_with_items_replaces_a_main_metric_without() -> None:
    def f1(share: float) -> TaskResult:
        metrics = {"f1": Measure(share, 0.4, 0.6), "accuracy": Measure(share, 0.4, 0.6)}
        return TaskResult(metrics, "f1", {"accuracy": answers(share)})

    difference = compare(f1(0.8), f1(0.6))
    assert difference.metric == "accuracy"
    assert difference.points.value == pytest.approx(20)


def test_only_common_tasks_are_compared() -> None:
    task = result(answers(0.5))
    assert find_differences([model("encoder", task), model("decoder", task, name="sst2")]) == ([], [])
    assert find_differences([model("encoder", task)]) == ([], [])


@pytest.mark.parametrize(
    ("right", "wrong", "p"), [(13, 4, 0.04904174804), (5, 0, 0.0625), (9, 9, 1.0), (60, 40, 0.0568879)]
)
def test_items_that_are_right_or_wrong_have_the_exact_binomial_p(right: int, wrong: int, p: float) -> None:
    """McNemar's exact test; 13 against 4 by hand: 2 * (2380 + 680 + 136 + 17 + 1) / 2**17."""
    first, second = [1.0] * right + [0.0] * wrong, [0.0] * right + [1.0] * wrong
    assert sign_flip_p(first, second) == pytest.approx(p, abs=1e-7)
    tail = sum(math.comb(right + wrong, k) for k in range(max(right, wrong), right + wrong + 1))
    assert sign_flip_p(first, second) == pytest.approx(min(1.0, tail / 2 ** (right + wrong - 1)))


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
