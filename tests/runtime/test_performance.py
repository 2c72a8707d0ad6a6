"""The peak rate that MFU refers to, and the time of a rank's own part of a step; tests/gpu times a GPU."""

from __future__ import annotations

import time
from typing import Any
from unittest.mock import patch

import pytest

from megatron_ettin.runtime import performance
from megatron_ettin.runtime.device import Device
from megatron_ettin.runtime.performance import Stopwatch
from tests.helpers.distributed import run_ranks


def peak_of(name: str) -> float:
    """Return the peak of a GPU of this name; a timed product has the rate 1."""
    import torch

    def timed(*arguments: Any) -> float:
        return 1.0

    with (
        patch.object(torch.cuda, "get_device_name", lambda index: name),
        patch.object(performance, "product_rate", timed),
    ):
        return performance.peak_rate(Device("cuda", 0), bf16=True)


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989.5),
        ("NVIDIA GH200 480GB", 989.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
    ],
)
def test_known_gpus_have_the_peak_of_their_data_sheet(name: str, teraflops: float) -> None:
    assert run_ranks(1, peak_of, name) == [teraflops * 1e12]


@pytest.mark.parametrize(
    "name", ["NVIDIA RTX A4000", "NVIDIA A10G", "NVIDIA RTX A1000 Laptop GPU", "AMD Instinct MI300X"]
)
def test_other_gpus_are_timed(name: str) -> None:
    assert run_ranks(1, peak_of, name) == [1.0]


def time_a_product() -> tuple[float, bool]:
    import torch

    before = torch.get_rng_state()
    rate = performance.peak_rate(Device("cpu", 0), bf16=False)
    return rate, torch.equal(torch.get_rng_state(), before)


def test_timing_leaves_the_random_state_of_the_run() -> None:
    [(rate, untouched)] = run_ranks(1, time_a_product)
    assert 1e8 < rate < 1e14, "FLOP/s of one CPU core"
    assert untouched


def test_seconds_are_those_from_start_to_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 12.5, 20.0, 20.25])
    monkeypatch.setattr(performance.time, "perf_counter", lambda: next(times))
    watch = Stopwatch(Device("cpu", 0))
    seconds = []
    for _ in range(2):
        watch.start()
        watch.arrive()
        seconds.append(watch.seconds())
    assert seconds == [2.5, 0.25]


def test_step_without_both_marks_has_no_time() -> None:
    watch = Stopwatch(Device("cpu", 0))
    watch.arrive()
    assert watch.seconds() == 0.0
    watch.start()
    assert watch.seconds() == 0.0
    watch.start()
    time.sleep(0.01)
    watch.arrive()
    assert watch.seconds() >= 0.01
    assert watch.seconds() == 0.0
