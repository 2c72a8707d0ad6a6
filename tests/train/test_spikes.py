"""Spikes against figures computed by hand, and the state of the guard."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from megatron_ettin.checkpoint.folder.state import TrainingState
from megatron_ettin.config.training import TrainingConfig
from megatron_ettin.train.spikes import SPIKE_LEAST_STEPS, SPIKE_WINDOW_STEPS, StepGuard
from megatron_ettin.train.step import StepResult, Sums


def totals(loss: float) -> Sums:
    return Sums(loss * 10, 10, 0, 100)


def guard_after(losses: list[float], **settings: float) -> StepGuard:
    state = TrainingState.start("mlm")
    state.recent_losses = losses
    return StepGuard(replace(TrainingConfig(), **settings), state)  # type: ignore[arg-type]


# Half of them are 2 and half 4: the mean is 3, and the squared deviations sum to their number, n.
LOSSES = [2.0, 4.0] * (SPIKE_WINDOW_STEPS // 2)
DEVIATION = math.sqrt(SPIKE_WINDOW_STEPS / (SPIKE_WINDOW_STEPS - 1))


@pytest.mark.parametrize(
    ("loss", "allowed"), [(3 + 5.99 * DEVIATION, True), (3 + 6.01 * DEVIATION, False), (-100.0, True)]
)
def test_a_spike_is_the_given_deviations_above_the_mean(loss: float, allowed: bool) -> None:
    assert guard_after(LOSSES, skip_loss_spikes=6.0).allows(totals(loss)) is allowed
    assert guard_after(LOSSES).allows(totals(loss))


def test_no_step_is_a_spike_while_the_window_is_short() -> None:
    assert guard_after(LOSSES[: SPIKE_LEAST_STEPS - 1], skip_loss_spikes=1.0).allows(totals(1e6))
    assert not guard_after(LOSSES[:SPIKE_LEAST_STEPS], skip_loss_spikes=1.0).allows(totals(1e6))


def test_training_continues_when_the_loss_stays_high() -> None:
    guard = guard_after([2.0, 2.1] * (SPIKE_WINDOW_STEPS // 2), skip_loss_spikes=6.0)
    skipped = 0
    while not guard.allows(totals(5.0)):
        guard.count(StepResult(totals(5.0), 1.0, applied=False))
        skipped += 1
    # With j of n losses higher by h, the deviation is about h sqrt(j / n); 6 deviations reach h at j = n / 36.
    assert skipped == math.ceil(SPIKE_WINDOW_STEPS / 36)
    assert skipped <= TrainingConfig().max_skipped_steps


def test_state_is_the_latest_finite_losses_and_the_skipped_steps() -> None:
    state = TrainingState.start("mlm")
    guard = StepGuard(replace(TrainingConfig(), skip_loss_spikes=6.0, max_skipped_steps=1), state)
    for loss in range(SPIKE_WINDOW_STEPS + 3):
        guard.count(StepResult(totals(float(loss)), 1.0, applied=True))
    guard.count(StepResult(totals(math.nan), math.nan, applied=False, finite=False))
    assert state.recent_losses == [float(loss) for loss in range(3, SPIKE_WINDOW_STEPS + 3)]
    assert (state.skipped_steps, state.skipped_in_a_row, guard.is_exhausted) == (1, 1, False)
    guard.count(StepResult(totals(1.0), math.inf, applied=False, finite=False))
    assert (state.skipped_steps, state.skipped_in_a_row, guard.is_exhausted) == (2, 2, True)
    assert "--max-skipped-steps 1" in str(guard.failure())
    guard.count(StepResult(totals(1.0), 1.0, applied=True))
    assert (state.skipped_steps, state.skipped_in_a_row, guard.is_exhausted) == (2, 0, False)


def test_losses_are_kept_only_for_spikes() -> None:
    state = TrainingState.start("mlm")
    StepGuard(TrainingConfig(), state).count(StepResult(totals(1.0), 1.0, applied=True))
    assert state.recent_losses == []
