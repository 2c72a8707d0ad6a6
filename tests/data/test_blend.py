"""Blends: within one row of the requested shares at every position, and independent of where reading starts."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.sources import SourceRequest, Sources, source_names
from megatron_ettin.data.blend import Blend
from megatron_ettin.errors import ConfigError

weights_of_sources = st.lists(st.integers(1, 60), min_size=1, max_size=25)


def largest_miss(weights: list[Fraction], blend: Blend, rows: int) -> Fraction:
    """Return the largest difference between the rows of a source and its exact quota, over all positions."""
    common = math.lcm(*(weight.denominator for weight in weights))
    integers = np.array([int(weight * common) for weight in weights], dtype=np.int64)
    total = int(integers.sum())
    assert total * rows < 2**62, "int64 is exact"
    sources, numbers = blend.sources(0, rows)
    counts = np.cumsum(sources[:, None] == np.arange(len(weights)), axis=0)
    assert (numbers == counts[np.arange(rows), sources] - 1).all(), "the rows of a source are numbered consecutively"
    misses = abs(counts * total - np.arange(1, rows + 1)[:, None] * integers)
    return Fraction(int(misses.max()), total)


@settings(deadline=None, max_examples=40)
@given(weights_of_sources, st.integers(1, 40))
def test_every_source_is_within_one_row_at_every_position(weights: list[int], smallest_block: int) -> None:
    blend = Blend(weights, smallest_block)
    assert largest_miss([Fraction(weight) for weight in weights], blend, 600) < 1


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-9, 0), min_size=2, max_size=12))
def test_extreme_weights_are_within_one_row(exponents: list[float]) -> None:
    weights = [Fraction(f"{10**exponent:.12f}") for exponent in exponents]
    weights = [weight or Fraction(1, 10**9) for weight in weights]
    assert largest_miss(weights, Blend(weights), 1500) < 1


@pytest.mark.parametrize("equal", [3, 7, 64])
def test_equal_weights_alternate(equal: int) -> None:
    sources, _ = Blend([Fraction(1, equal)] * equal).sources(0, 10 * equal)
    assert all(sorted(turn) == list(range(equal)) for turn in sources.reshape(10, equal).tolist())


@settings(deadline=None, max_examples=40)
@given(weights_of_sources, st.lists(st.integers(0, 2000), min_size=1, max_size=6))
def test_any_position_equals_the_walk_from_the_start(weights: list[int], places: list[int]) -> None:
    sources, numbers = Blend(weights, 50).sources(0, 2100)
    other = Blend(weights, 50)
    for place in places:  # forwards and backwards
        part, own = other.sources(place, place + 100)
        np.testing.assert_array_equal(part, sources[place : place + 100])
        np.testing.assert_array_equal(own, numbers[place : place + 100])
        assert other.counts(place) == np.bincount(sources[:place], minlength=len(weights)).tolist()


def test_a_far_position_is_reached_at_once() -> None:
    weights = [Fraction(number, 1000) for number in (491, 209, 155, 47, 34, 16, 11, 10, 7, 7, 4, 4, 3, 2)]
    place = 10**12
    counts = Blend(weights).counts(place)
    assert sum(counts) == place
    assert all(abs(count - weight / sum(weights) * place) < 1 for count, weight in zip(counts, weights, strict=True))


def test_a_share_of_a_billionth_gives_one_row_in_a_billion() -> None:
    weights = [Fraction(1), Fraction(1, 10**9)]
    blend = Blend(weights)
    blend.start_at(10**9 - 1000, [10**9 - 1000, 0])
    sources, numbers = blend.sources(10**9 - 1000, 10**9 + 1000)
    assert sources.sum() == 1
    assert numbers[sources == 1].tolist() == [0]


def test_impossible_counts_are_ignored() -> None:
    blend = Blend([1, 1])
    blend.start_at(10, [9, 1])
    blend.start_at(10, [5])
    assert blend.counts(10) == [5, 5]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("a/b", [SourceRequest("a/b")]),
        (["a/b"], [SourceRequest("a/b")]),
        (["with space/b"], [SourceRequest("with space/b")]),
        (["0.6", "A", "0.4", "B"], [SourceRequest("A", Fraction(3, 5)), SourceRequest("B", Fraction(2, 5))]),
        ("1e-9 A 1 B", [SourceRequest("A", Fraction(1, 10**9)), SourceRequest("B", Fraction(1))]),
        (["A", "B"], [SourceRequest("A"), SourceRequest("B")]),
        (["5B", "A", "1.5K", "B"], [SourceRequest("A", tokens=5 * 10**9), SourceRequest("B", tokens=1500)]),
        ([{"path": "A", "weight": 0.5}, {"path": "B c", "weight": 2}],
         [SourceRequest("A", Fraction(1, 2)), SourceRequest("B c", Fraction(2))]),
        ([{"path": "A", "tokens": "5B"}, {"path": "B", "tokens": 1234}],
         [SourceRequest("A", tokens=5 * 10**9), SourceRequest("B", tokens=1234)]),
    ],
)  # fmt: skip
def test_forms_of_a_blend(written: object, expected: list[SourceRequest]) -> None:
    sources = Sources.parse(written)
    assert list(sources.requests) == expected
    assert Sources.parse(str(sources)) == sources


@pytest.mark.parametrize(
    "written",
    ["0 A 1 B", "-1 A 2 B", "5B A 1 B", "0K A 1K B", "0.6 A 0.4", "0.6 A B", "A 0.6 B 0.4", "A 5B"],
)
def test_invalid_amounts_are_refused(written: str) -> None:
    with pytest.raises(ConfigError, match="--data-path"):
        RunConfig().with_values({"data_path": written})


@pytest.mark.parametrize("written", [[], [{"path": "A"}], [{"path": "A", "weight": "x"}], [True], 3, [{"weight": 1}]])
def test_values_that_are_not_a_blend(written: object) -> None:
    with pytest.raises(ValueError, match="must be PREFIX"):
        Sources.parse(written)


def test_corpora_with_the_same_name_are_numbered() -> None:
    paths = {0: "/a/books", 2: "web/text", 3: "code/text"}
    assert source_names(paths) == {0: "books", 2: "text_2", 3: "text_3"}
