"""Requests to stop a launch early, and the file that records them.

A request may reach a single rank, or all ranks at different times. Each rank adds its votes to the totals of a step, so
all ranks stop after the same step, without a collective of their own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from megatron_ettin.files import write_json_atomic
from megatron_ettin.runtime.signals import STOP_SIGNALS, StopSignals

STOP_FILE = "stop.json"
"""In SAVE: ``{"reason": "SIGTERM", "step": 120, "tokens": 983040}``, only after a launch that was asked to stop."""

EXIT_AFTER_MINUTES = "exit-after-minutes"
REASONS = (*(number.name for number in STOP_SIGNALS), EXIT_AFTER_MINUTES)


class StopRequests:
    """Requests to stop that this rank knows of."""

    def __init__(self, signals: StopSignals, exit_after_minutes: float) -> None:
        """Start the clock.

        Args:
            signals: receives the signals.
            exit_after_minutes: age at which the launch stops, counted from now; 0 for no limit.
        """
        self._signals = signals
        self._minutes = exit_after_minutes
        self._started = time.monotonic()

    def votes(self) -> tuple[bool, ...]:
        """Return for each of REASONS whether it holds on this rank."""
        is_old = 0 < self._minutes * 60 <= time.monotonic() - self._started
        return (*(name == self._signals.received for name in REASONS[:-1]), is_old)


def reason_of(votes: Sequence[bool]) -> str:
    """Return the first reason that any rank voted for; empty if there is none."""
    return next((reason for reason, vote in zip(REASONS, votes, strict=True) if vote), "")


def write_stop(save: Path, reason: str, step: int, tokens: int) -> None:
    """Record why and after which step the launch stopped; the checkpoint of that step is complete."""
    write_json_atomic(save / STOP_FILE, {"reason": reason, "step": step, "tokens": tokens})


def clear_stop(save: Path) -> None:
    """Delete the record of the previous launch."""
    (save / STOP_FILE).unlink(missing_ok=True)
