"""Stop signals: the first is recorded, a second ends the process, also while its main thread is busy."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

BUSY_IN_C = """
import ctypes, os, sys
from megatron_ettin.runtime.signals import StopSignals, hold_signals
hold_signals()
with StopSignals(lambda name: os.write(1, f"received {name}\\n".encode())) as signals:
    os.write(1, b"ready\\n")
    ends = os.pipe()
    # The read never returns, and Python's own handlers cannot run during it, as in a collective.
    ctypes.CDLL(None).read(ends[0], ctypes.create_string_buffer(1), 1)
"""
WAITS_FOR_A_SIGNAL = """
import os, time
from megatron_ettin.runtime.signals import StopSignals, hold_signals
hold_signals()
os.kill(os.getpid(), {early})
with StopSignals() as signals:
    while not signals.received:
        time.sleep(0.01)
    os.write(1, signals.received.encode())
"""
WAITS_IN_A_CALL = """
import ctypes, os
from megatron_ettin.runtime.signals import StopSignals, hold_signals
hold_signals()
with StopSignals() as signals:
    os.write(1, b"ready\\n")
    # poll is never restarted after a signal, also not with siginterrupt(False).
    ended = ctypes.CDLL(None).poll(None, 0, 1000)
    os.write(1, f"{ended} {signals.received}\\n".encode())
"""
SIGNALLED_LATE = """
import os, signal, time
from megatron_ettin.runtime.signals import StopSignals, hold_signals
hold_signals()
with StopSignals():
    pass
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.1)
"""
FORKS = """
import os, signal, time
from megatron_ettin.runtime.signals import StopSignals
with StopSignals() as signals:
    child = os.fork()
    if not child:
        time.sleep(1.0)
        os._exit(7)
    time.sleep(0.3)
    os.kill(child, signal.SIGTERM)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code, repr(signals.received))
"""


def start(source: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_first_signal_is_recorded_and_a_second_ends_the_process(number: signal.Signals) -> None:
    with start(BUSY_IN_C) as process:
        assert line_of(process) == "ready"
        process.send_signal(number)
        assert line_of(process) == f"received {number.name}"
        # Forwarded by a launcher as well: the same request.
        process.send_signal(number)
        time.sleep(1.2)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=2) == 128 + signal.SIGTERM


def test_signal_before_the_listener_is_kept() -> None:
    with start(WAITS_FOR_A_SIGNAL.format(early=int(signal.SIGUSR1))) as process:
        assert line_of(process) == "SIGUSR1"
    assert process.returncode == 0


def test_system_call_of_the_main_thread_is_not_interrupted() -> None:
    with start(WAITS_IN_A_CALL) as process:
        assert line_of(process) == "ready"
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert line_of(process) == "0 SIGTERM"


def test_signal_after_the_listener_does_not_change_the_exit_code() -> None:
    assert start(SIGNALLED_LATE).wait(timeout=10) == 0


def test_forked_child_ignores_signals_and_leaves_its_parent_alone() -> None:
    with start(FORKS) as process:
        assert line_of(process) == "7 ''"


def test_previous_handlers_are_restored() -> None:
    from megatron_ettin.runtime.signals import STOP_SIGNALS, StopSignals

    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
