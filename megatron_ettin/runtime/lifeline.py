"""A rank ends with the agent that started it. Stdlib only, so that it holds before anything heavy is imported."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_launcher() -> None:
    """Ask the kernel to kill this process when torchrun's agent dies, however it dies.

    An agent that is killed cannot end its ranks; they would go on, hold their devices and write into the same folder as
    the next launch. Only under torchrun, and only on Linux, which alone has the request: a run that a shell started may
    outlive that shell.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
