"""The time of a rank's own part of a step, on a CPU; tests/gpu takes it on a GPU."""

from __future__ import annotations

import time

import pytest

from megatron_ettin.runtime import stopwatch as module
from megatron_ettin.runtime.device import Device
from megatron_ettin.runtime.stopwatch import Stopwatch


def test_seconds_are_those_from_begin_to_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([10.0, 12.5, 20.0, 20.25])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(moments))
    watch = Stopwatch(Device("cpu", 0))
    found = []
    for _ in range(2):
        watch.begin()
        watch.arrive()
        found.append(watch.seconds())
    assert found == [2.5, 0.25]


def test_a_step_without_both_marks_counts_for_nothing() -> None:
    watch = Stopwatch(Device("cpu", 0))
    watch.arrive()
    assert watch.seconds() == 0.0
    watch.begin()
    assert watch.seconds() == 0.0
    watch.begin()
    time.sleep(0.01)
    watch.arrive()
    assert watch.seconds() >= 0.01
    assert watch.seconds() == 0.0
