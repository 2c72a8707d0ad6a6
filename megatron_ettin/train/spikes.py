"""Which steps are not made: those that are not finite, and those whose loss leaps up."""

from __future__ import annotations

import statistics

from megatron_ettin.checkpoint.folder.state import TrainingState
from megatron_ettin.config.training import TrainingConfig
from megatron_ettin.errors import RunFailure
from megatron_ettin.train.step import StepResult, Sums

SPIKE_WINDOW_STEPS = 128
"""Losses that mean and deviation are taken of, as in OLMo-core's skip-step optimizers, whose 6 deviations are usual."""
SPIKE_LEAST_STEPS = SPIKE_WINDOW_STEPS // 2
"""Losses without which no step is called a spike."""


class StepGuard:
    """Judges each step by what the run's state remembers, so that a resumed run judges alike."""

    def __init__(self, settings: TrainingConfig, state: TrainingState) -> None:
        """Set up a guard that keeps its memory in ``state``."""
        self._settings = settings
        self._state = state

    def allows(self, sums: Sums) -> bool:
        """Whether a step with these totals is no spike; the same on all ranks, which share the totals."""
        factor, losses = self._settings.skip_loss_spikes, self._state.recent_losses
        if not factor or len(losses) < SPIKE_LEAST_STEPS:
            return True
        return sums.loss - statistics.fmean(losses) <= factor * statistics.stdev(losses)

    def note(self, result: StepResult) -> None:
        """Remember a step.

        A spike's loss is remembered too: where the loss stays up, as with other data, its deviation grows and after a
        few steps training goes on.
        """
        state = self._state
        if self._settings.skip_loss_spikes and result.finite:
            state.recent_losses = [*state.recent_losses, result.sums.loss][-SPIKE_WINDOW_STEPS:]
        state.skipped_steps += not result.applied
        state.skipped_in_a_row = 0 if result.applied else state.skipped_in_a_row + 1

    @property
    def is_spent(self) -> bool:
        """Whether more steps in a row were skipped than --max-skipped-steps."""
        return self._state.skipped_in_a_row > self._settings.max_skipped_steps

    def failure(self) -> RunFailure:
        """Return what ends the run then."""
        return RunFailure(
            f"step {self._state.step}: steps skipped in a row: {self._state.skipped_in_a_row}, allowed are "
            f"--max-skipped-steps {self._settings.max_skipped_steps}; the checkpoints stay as they were before"
        )
