"""Learning rates against values worked out by hand."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ettin.config.command_line import parse_command
from megatron_ettin.config.presets import SIZES
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.training import OptimizerConfig, TrainingConfig
from megatron_ettin.optim.schedules import Schedule, build_schedule, learning_rate_path, phase_schedule

STYLES = ["constant", "linear", "cosine", "WSD", "1-sqrt"]


def rates(style: str, steps: int = 10, **settings: float) -> list[float]:
    config = OptimizerConfig(lr=1.0, lr_decay_style=style, **settings)  # type: ignore[arg-type]
    rate = build_schedule(config, TrainingConfig(train_iters=steps))
    return [rate(step, 0) for step in range(steps)]


def test_warm_up_starts_above_zero_and_ends_at_the_peak() -> None:
    assert rates("constant", 6, lr_warmup_iters=4) == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def test_without_warm_up_the_first_step_is_at_the_peak() -> None:
    assert rates("WSD", 3, lr_wsd_decay_iters=1) == pytest.approx([1.0, 1.0, 0.0])


def test_linear() -> None:
    # Two steps up, then eight down to 0.2 by 0.1 each.
    expected = [0.5, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
    assert rates("linear", lr_warmup_iters=2, min_lr=0.2) == pytest.approx(expected)


def test_wsd_is_constant_and_then_decays_linearly() -> None:
    expected = [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    assert rates("WSD", lr_warmup_iters=2, lr_wsd_decay_iters=4) == pytest.approx(expected)


def test_wsd_without_a_decay_is_constant() -> None:
    assert rates("WSD", 5) == [1.0] * 5


def test_cosine_at_its_quarters() -> None:
    values = rates("cosine", 8)
    root = math.sqrt(0.5)
    assert [values[1], values[3], values[5], values[7]] == pytest.approx([(1 + root) / 2, 0.5, (1 - root) / 2, 0.0])


def test_one_minus_sqrt_at_squares() -> None:
    # After a quarter of the decay, the root is one half.
    values = rates("1-sqrt", 16, min_lr=0.5)
    assert [values[0], values[3], values[8], values[15]] == pytest.approx([0.875, 0.75, 0.625, 0.5])


def test_decay_may_end_before_the_run() -> None:
    assert rates("linear", 6, lr_decay_iters=4, min_lr=0.1) == pytest.approx([0.775, 0.55, 0.325, 0.1, 0.1, 0.1])


@pytest.mark.parametrize("style", STYLES)
@given(t=st.floats(0, 200), warmup=st.floats(1, 40), length=st.floats(1, 50))
def test_rate_stays_between_floor_and_peak_and_never_rises_after_the_warm_up(
    style: str, t: float, warmup: float, length: float
) -> None:
    schedule = Schedule(style, peak=3e-3, floor=1e-4, warmup=warmup, decay_end=100, decay_length=length)
    if t >= warmup:
        assert 1e-4 * (1 - 1e-9) <= schedule(t) <= 3e-3
        assert schedule(t + 1) <= schedule(t)
    else:
        assert schedule(t) == pytest.approx(3e-3 * t / warmup)


@pytest.mark.parametrize("style", STYLES)
def test_rate_is_continuous(style: str) -> None:
    """Neighbouring times have close rates, also at the corners of the schedule."""
    schedule = Schedule(style, peak=1.0, floor=0.0, warmup=1e4, decay_end=1e5, decay_length=3e4)
    values = [schedule(t) for t in range(0, 120_000, 7)]
    # The steepest point is the start of 1-sqrt, whose slope is unbounded: sqrt(7 / 9e4) for the first 7 units.
    assert max(abs(a - b) for a, b in itertools.pairwise(values)) < 0.0089


def test_schedule_in_tokens_depends_on_the_tokens_before_a_step_alone() -> None:
    config = OptimizerConfig(lr=1.0, lr_decay_style="WSD", lr_warmup_tokens=100, lr_wsd_decay_tokens=400)
    rate = build_schedule(config, TrainingConfig(train_tokens=1000))
    assert [rate(7, tokens) for tokens in (0, 50, 100, 600, 800, 1000)] == [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]
    assert rate(0, 800) == rate(10**9, 800)


def test_schedule_and_run_may_have_different_units() -> None:
    config = OptimizerConfig(lr=1.0, lr_decay_style="linear", lr_decay_tokens=1000)
    assert build_schedule(config, TrainingConfig(train_iters=5))(3, 250) == 0.75
    # A schedule without a decay needs no end.
    config = OptimizerConfig(lr=1.0, lr_decay_style="WSD", lr_warmup_tokens=10, min_lr=0.1)
    assert build_schedule(config, TrainingConfig(train_iters=5))(3, 10**9) == 1.0


def phase_run(size: str, phase: str) -> RunConfig:
    return parse_command(["--preset", f"ettin-{size}", "--objective", "mlm", "--phase", phase]).config


@pytest.mark.parametrize("size", SIZES)
def test_published_phases_join_without_a_jump(size: str) -> None:
    """Peak, half of it, and 0.02 of it: each phase ends at the rate that the next starts from."""
    schedules, ends, peak = {}, {}, phase_run(size, "pretrain").optimizer.lr
    for phase in ("pretrain", "extend", "decay", "cross"):
        config = phase_run(size, phase)
        schedules[phase] = phase_schedule(config.optimizer, config.training)
        ends[phase] = config.training.train_tokens
    assert schedules["pretrain"](0) == 0
    assert schedules["pretrain"](ends["pretrain"]) == schedules["extend"](0) == peak
    assert schedules["extend"](ends["extend"]) == schedules["decay"](0) == pytest.approx(peak / 2)
    assert schedules["decay"](ends["decay"]) == pytest.approx(0.02 * peak)
    assert max(schedules["cross"](ends["cross"] * part / 100) for part in range(101)) == pytest.approx(peak / 2)
    assert schedules["cross"](ends["cross"]) == pytest.approx(0.01 * peak)
    # After a quarter of the decay, the root is one half.
    assert schedules["extend"](ends["extend"] / 4) == pytest.approx(0.75 * peak)


def test_path_contains_the_corners() -> None:
    config = phase_run("17m", "cross")
    path = dict(learning_rate_path(config.optimizer, config.training))
    assert path[0] == 0
    assert path[3 * 10**9] == path[40 * 10**9] == pytest.approx(1.5e-3)
    assert path[50 * 10**9] == pytest.approx(3e-5)
