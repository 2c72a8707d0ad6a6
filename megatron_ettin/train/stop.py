"""Why a launch ends before its run is complete: the requests of each rank, and the file that tells of it.

A request may reach one rank alone, or all at different times. Each rank hands in what it knows with the totals of a
step, so that all find the same sum and stop after the same step, without a collective of its own.
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
    """What asks this rank to stop."""

    def __init__(self, signals: StopSignals, exit_after_minutes: float) -> None:
        """Begin to listen and to count the time.

        Args:
            signals: the listener for signals.
            exit_after_minutes: how old the launch may become, from now; 0 for any age.
        """
        self._signals = signals
        self._minutes = exit_after_minutes
        self._started = time.monotonic()

    def votes(self) -> tuple[bool, ...]:
        """Return for each of REASONS whether this rank knows of it."""
        is_old = 0 < self._minutes * 60 <= time.monotonic() - self._started
        return (*(name == self._signals.received for name in REASONS[:-1]), is_old)


def reason_of(votes: Sequence[bool]) -> str:
    """Return the reason that all ranks give for stopping, by the votes of any of them, or nothing."""
    return next((reason for reason, vote in zip(REASONS, votes, strict=True) if vote), "")


def write_stop(save: Path, reason: str, step: int, tokens: int) -> None:
    """Tell scripts why and where the launch stopped; what it names is saved already."""
    write_json_atomic(save / STOP_FILE, {"reason": reason, "step": step, "tokens": tokens})


def clear_stop(save: Path) -> None:
    """Remove what a former launch told."""
    (save / STOP_FILE).unlink(missing_ok=True)
