"""Skip steps with non-finite values or loss spikes."""

from __future__ import annotations

import statistics

from megatron_ettin.checkpoint.folder.state import TrainingState
from megatron_ettin.config.training import TrainingConfig
from megatron_ettin.errors import RunFailure
from megatron_ettin.train.step import StepResult, Sums

SPIKE_WINDOW_STEPS = 128
"""Losses whose mean and deviation decide, as in OLMo-core's skip-step optimizers, where 6 deviations are usual."""
SPIKE_LEAST_STEPS = SPIKE_WINDOW_STEPS // 2
"""With fewer losses, no step counts as a spike."""


class StepGuard:
    """Decides which steps are skipped, from the saved state alone: a resumed run decides the same."""

    def __init__(self, settings: TrainingConfig, state: TrainingState) -> None:
        """Guard a run; recent losses and counters of skipped steps are kept in ``state``."""
        self._settings = settings
        self._state = state

    def allows(self, sums: Sums) -> bool:
        """Whether the loss of a step is not a spike; all ranks share the totals and agree."""
        factor, losses = self._settings.skip_loss_spikes, self._state.recent_losses
        if not factor or len(losses) < SPIKE_LEAST_STEPS:
            return True
        return sums.loss - statistics.fmean(losses) <= factor * statistics.stdev(losses)

    def count(self, result: StepResult) -> None:
        """Count a step.

        The loss of a spike enters the window as well: if the loss stays high, as with other data, the deviation grows
        and training continues after a few steps.
        """
        state = self._state
        if self._settings.skip_loss_spikes and result.finite:
            state.recent_losses = [*state.recent_losses, result.sums.loss][-SPIKE_WINDOW_STEPS:]
        state.skipped_steps += not result.applied
        state.skipped_in_a_row = 0 if result.applied else state.skipped_in_a_row + 1

    @property
    def is_exhausted(self) -> bool:
        """Whether more steps in a row were skipped than --max-skipped-steps allows."""
        return self._state.skipped_in_a_row > self._settings.max_skipped_steps

    def failure(self) -> RunFailure:
        """Return the error that then ends the run."""
        return RunFailure(
            f"step {self._state.step}: steps skipped in a row: {self._state.skipped_in_a_row}, allowed are "
            f"--max-skipped-steps {self._settings.max_skipped_steps}; previous checkpoints are complete"
        )
