"""Signals that ask a run to stop: noted at once, acted on by whoever looks. Stdlib only."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""From a scheduler or torchrun's agent; from a terminal; Slurm's warning before the end of a job's time."""

SAME_EVENT_SECONDS = 1.0
"""Slurm signals a job's ranks and their agent, which hands the same signal on: that is one request, not a second."""


def hold_signals() -> set[int]:
    """Let the stop signals wait until someone listens; return which signals the calling thread held before."""
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS))


def release_signals() -> None:
    """Let the stop signals through to the calling thread, those that waited too."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


class StopSignals:
    """Listens, inside its ``with``, for the stop signals.

    The first one is only noted. A second one ends the process at once, with 128 + its number as a shell tells it. A
    thread hears them, because Python's own handlers wait while the main thread is inside a collective. They reach that
    thread alone: to torch's sockets an interrupted call is an error.
    """

    def __init__(self, heard: Callable[[str], None] = lambda name: None) -> None:
        """Set up a listener.

        Args:
            heard: called with the first signal's name, from the listening thread.
        """
        self.received = ""
        """Name of the first signal, as SIGTERM."""
        self._heard = heard
        self._received_at = 0.0

    def __enter__(self) -> StopSignals:
        self._former_mask = hold_signals()
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._former_end = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        self._former = {number: signal.signal(number, _note) for number in STOP_SIGNALS}
        for number in STOP_SIGNALS:
            signal.siginterrupt(number, False)
        self._thread = threading.Thread(target=self._listen, name="stop signals", daemon=True)
        self._thread.start()
        _listening.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _listening.remove(self)
        os.write(self._write_end, _END)
        self._thread.join()
        signal.set_wakeup_fd(self._former_end)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        # Where they were held before, a late one waits until the process has ended as it was about to.
        signal.pthread_sigmask(signal.SIG_SETMASK, self._former_mask)
        os.close(self._write_end)
        os.close(self._read_end)

    def _listen(self) -> None:
        release_signals()
        while True:
            for number in os.read(self._read_end, 64):
                if number in STOP_SIGNALS:
                    self._hear(signal.Signals(number))
                elif number == _END[0]:
                    hold_signals()  # the system's thread lives on for a moment after Python's has ended
                    return

    def _hear(self, number: signal.Signals) -> None:
        if not self.received:
            self.received, self._received_at = number.name, time.monotonic()
            self._heard(number.name)
        elif time.monotonic() - self._received_at > SAME_EVENT_SECONDS:
            end_at_once(128 + number)


def end_at_once(code: int) -> None:
    """End this process without tidying up, but for what the terminal and its readers would miss."""
    for descriptor in (1, 2):
        if os.isatty(descriptor):
            os.write(descriptor, _SHOW_CURSOR)
    os._exit(code)


_END = b"\0"
"""No signal has this number."""
_SHOW_CURSOR = b"\x1b[?25h"
"""A progress bar hides it."""

_listening: list[StopSignals] = []


def _note(number: int, frame: FrameType | None) -> None:
    """Do nothing: that there is a handler makes the interpreter tell the thread."""


def _leave_to_parent() -> None:
    """In a forked child, such as a writer of checkpoints: it ends with its work, and must not speak for its parent."""
    if _listening:
        signal.set_wakeup_fd(-1)
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        _listening.clear()


os.register_at_fork(after_in_child=_leave_to_parent)


_PR_SET_PDEATHSIG = 1


def end_with_launcher() -> None:
    """Ask the kernel to kill this process when torchrun's agent dies, however it dies.

    An agent that is killed cannot end its ranks; they would go on, hold their devices and write into the same folder as
    the next launch. Only under torchrun, and only on Linux, which alone has the request: a run that a shell started may
    outlive that shell.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
