"""Learning rates against hand arithmetic."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ettin.config.training import OptimizerConfig
from megatron_ettin.optim.schedules import Schedule, build_schedule

STYLES = ["constant", "linear", "cosine", "WSD", "1-sqrt"]


def rates(style: str, steps: int = 10, **settings: float) -> list[float]:
    config = OptimizerConfig(lr=1.0, lr_decay_style=style, **settings)  # type: ignore[arg-type]
    rate = build_schedule(config, train_iters=steps)
    return [rate(step) for step in range(steps)]


def test_warm_up_moves_the_first_step_and_reaches_the_peak_at_its_last() -> None:
    assert rates("constant", 6, lr_warmup_iters=4) == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert rates("WSD", 3, lr_wsd_decay_iters=1) == pytest.approx([1.0, 1.0, 0.0])


def test_linear() -> None:
    # Two steps up, eight down to 0.2: each takes a tenth.
    expected = [0.5, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
    assert rates("linear", lr_warmup_iters=2, min_lr=0.2) == pytest.approx(expected)


def test_wsd_holds_and_then_falls_linearly() -> None:
    expected = [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    assert rates("WSD", lr_warmup_iters=2, lr_wsd_decay_iters=4) == pytest.approx(expected)


def test_wsd_without_a_decay_is_constant() -> None:
    assert rates("WSD", 5) == [1.0] * 5


def test_cosine_at_its_quarters() -> None:
    found = rates("cosine", 8)
    root = math.sqrt(0.5)
    assert [found[1], found[3], found[5], found[7]] == pytest.approx([(1 + root) / 2, 0.5, (1 - root) / 2, 0.0])


def test_one_less_root_at_squares() -> None:
    # A quarter of the way has the root one half.
    found = rates("1-sqrt", 16, min_lr=0.5)
    assert [found[0], found[3], found[8], found[15]] == pytest.approx([0.875, 0.75, 0.625, 0.5])


def test_decay_may_end_before_the_run() -> None:
    assert rates("linear", 6, lr_decay_iters=4, min_lr=0.1) == pytest.approx([0.775, 0.55, 0.325, 0.1, 0.1, 0.1])


@pytest.mark.parametrize("style", STYLES)
@given(t=st.floats(0, 200), warmup=st.floats(1, 40), length=st.floats(1, 50))
def test_stays_between_floor_and_peak_and_never_rises_after_the_warm_up(
    style: str, t: float, warmup: float, length: float
) -> None:
    schedule = Schedule(style, peak=3e-3, floor=1e-4, warmup=warmup, decay_end=100, decay_length=length)
    if t >= warmup:
        assert 1e-4 * (1 - 1e-9) <= schedule(t) <= 3e-3
        assert schedule(t + 1) <= schedule(t)
    else:
        assert schedule(t) == pytest.approx(3e-3 * t / warmup)


@pytest.mark.parametrize("style", STYLES)
def test_has_no_jump(style: str) -> None:
    """Between neighbouring moments the rate moves little, at the seams of the phases too."""
    schedule = Schedule(style, peak=1.0, floor=0.0, warmup=1e4, decay_end=1e5, decay_length=3e4)
    found = [schedule(t) for t in range(0, 120_000, 7)]
    # The steepest point is the start of 1-sqrt, whose slope is unbounded: sqrt(7 / 9e4) for the first 7 units.
    assert max(abs(a - b) for a, b in itertools.pairwise(found)) < 0.0089
