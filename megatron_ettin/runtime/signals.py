"""Signals that ask a run to stop: recorded at once, handled between steps. Standard library only."""

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
"""From a scheduler or torchrun's agent; from a terminal; Slurm's warning before a job's time limit."""

SAME_EVENT_SECONDS = 1.0
"""Slurm signals both a job's ranks and their agent, which forwards the signal: that is one request, not two."""

_END = b"\0"
"""Ends the listening thread; no signal has this number."""
_SHOW_CURSOR = b"\x1b[?25h"
"""For a cursor that a progress bar has hidden."""
_PR_SET_PDEATHSIG = 1


def hold_signals() -> set[int]:
    """Block the stop signals until a listener exists; return the signals that the calling thread blocked before."""
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS))


def release_signals() -> None:
    """Deliver the stop signals to the calling thread, including those that were blocked."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


class StopSignals:
    """Listens for the stop signals while its ``with`` block runs.

    The first signal is only recorded. A second one ends the process at once with 128 + its number, as shells report it.
    A thread listens, since Python's own handlers wait while the main thread is inside a collective. Only that thread
    receives the signals: torch's sockets treat an interrupted call as an error.
    """

    def __init__(self, on_first: Callable[[str], None] = lambda name: None) -> None:
        """Create a listener.

        Args:
            on_first: called with the first signal's name, from the listening thread.
        """
        self.received = ""
        """Name of the first signal, such as SIGTERM."""
        self._on_first = on_first
        self._received_at = 0.0

    def __enter__(self) -> StopSignals:
        self._previous_mask = hold_signals()
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._previous_wakeup = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        self._previous_handlers = {number: signal.signal(number, _ignore) for number in STOP_SIGNALS}
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
        signal.set_wakeup_fd(self._previous_wakeup)
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        # If they were blocked before, a late signal waits until the process has ended with its own exit code.
        signal.pthread_sigmask(signal.SIG_SETMASK, self._previous_mask)
        os.close(self._write_end)
        os.close(self._read_end)

    def _listen(self) -> None:
        release_signals()
        while True:
            for number in os.read(self._read_end, 64):
                if number in STOP_SIGNALS:
                    self._receive(signal.Signals(number))
                elif number == _END[0]:
                    hold_signals()  # the system's thread outlives Python's for a moment
                    return

    def _receive(self, number: signal.Signals) -> None:
        if not self.received:
            self.received, self._received_at = number.name, time.monotonic()
            self._on_first(number.name)
        elif time.monotonic() - self._received_at > SAME_EVENT_SECONDS:
            end_at_once(128 + number)


def end_at_once(code: int) -> None:
    """End this process without cleanup, except that the terminal's cursor is shown again."""
    for descriptor in (1, 2):
        if os.isatty(descriptor):
            os.write(descriptor, _SHOW_CURSOR)
    os._exit(code)


def end_with_launcher() -> None:
    """Ask the kernel to kill this process when torchrun's agent dies, however it dies.

    A killed agent cannot end its ranks; they would keep running, occupy their devices and write to the same folder as
    the next launch. Only under torchrun, since a run that a shell started may outlive the shell, and only on Linux,
    which alone has this request.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


_listening: list[StopSignals] = []


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: only with a handler does the interpreter write to the wakeup descriptor."""


def _ignore_in_child() -> None:
    """Ignore stop signals in a forked child, such as a checkpoint writer; it ends with its work."""
    if _listening:
        signal.set_wakeup_fd(-1)
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        _listening.clear()


os.register_at_fork(after_in_child=_ignore_in_child)
