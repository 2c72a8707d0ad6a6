"""How fast this machine is just now, so that time limits fit it."""

from __future__ import annotations

import os
import time
from functools import cache

USUAL_SECONDS = 0.05
"""What the work below takes on a core of the machines that the limits were set on, one of 2023."""
VARIABLE = "MEGATRON_ETTIN_TEST_SLOWNESS"


@cache
def slowness() -> float:
    """How many times longer this machine takes than usual, at least 1; measured once for all processes of a session."""
    if VARIABLE not in os.environ:
        started = time.perf_counter()
        sum(number % 7 for number in range(1_000_000))
        os.environ[VARIABLE] = str(max(1.0, (time.perf_counter() - started) / USUAL_SECONDS))
    return float(os.environ[VARIABLE])


def patience(seconds: float) -> float:
    """Return a time limit that is ``seconds`` on a usual machine."""
    return seconds * slowness()
