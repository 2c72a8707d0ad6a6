"""The speed of a device: its peak rate, and the time of a rank's own work in a step."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from types import MappingProxyType

import torch

from megatron_ettin.runtime.device import Device

_DENSE_BF16: Mapping[str, float] = MappingProxyType(
    {
        "B200": 2250e12,
        "H200": 989.5e12,
        "H100 PCIe": 756e12,
        "H100": 989.5e12,
        "GH200": 989.5e12,
        "L40S": 362e12,
        "A100": 312e12,
        "A40": 149.7e12,
        "A10": 125e12,
        "RTX 4090": 165.2e12,
    }
)
"""Part of a GPU's name -> dense bf16 FLOP/s of the vendor's data sheet; the first match counts."""

_GPU_SIZE, _CPU_SIZE = 8192, 768
"""Rows of a matrix product that reaches the peak within a fraction of a second."""


def peak_rate(device: Device, *, bf16: bool) -> float:
    """Return the peak FLOP/s of one rank's device.

    In bf16, a known GPU has the peak of its data sheet; otherwise the peak is that of a matrix product timed here.

    Args:
        device: the device of this rank.
        bf16: whether the run computes in bf16.
    """
    if device.type == "cuda" and bf16:
        name = torch.cuda.get_device_name(device.index)
        for part, rate in _DENSE_BF16.items():
            if re.search(rf"\b{part}\b", name):  # an RTX A4000 is not an A40
                return rate
    return product_rate(device, torch.bfloat16 if bf16 else torch.float32)


def product_rate(device: Device, dtype: torch.dtype, *, size: int = 0, rounds: int = 4) -> float:
    """Return the FLOP/s of a product of two square random matrices, the best of several rounds.

    Args:
        device: where to multiply.
        dtype: type of the values.
        size: rows and columns; 0 chooses a size for the device.
        rounds: number of products.
    """
    size = size or (_GPU_SIZE if device.type == "cuda" else _CPU_SIZE)
    own = torch.Generator().manual_seed(0)  # the default generator belongs to dropout
    a, b = (torch.randn(size, size, generator=own).to(device.torch_device, dtype) for _ in range(2))
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


class Stopwatch:
    """Measures how long a rank works on a step by itself, until it waits for other ranks.

    It never waits for the device: on a GPU, events are recorded in the stream and read after the step's results were;
    on a CPU, the clock is read. A step without both marks has no time.
    """

    def __init__(self, device: Device) -> None:
        """Create a stopwatch for one rank's device."""
        self._on_cuda = device.type == "cuda"
        self._started: float | torch.cuda.Event | None = None
        self._arrived: float | torch.cuda.Event | None = None

    def start(self) -> None:
        """Mark the start of a step, which includes the wait for its batches."""
        self._started, self._arrived = self._mark(), None

    def arrive(self) -> None:
        """Mark the point of a started step at which this rank has to wait for others."""
        if self._started is not None:
            self._arrived = self._mark()

    def seconds(self) -> float:
        """Return the seconds between the two marks of the latest step, 0 without them.

        On a GPU, the step's results must have been read before.
        """
        started, arrived, self._started, self._arrived = self._started, self._arrived, None, None
        if started is None or arrived is None:
            return 0.0
        if isinstance(started, float):
            assert isinstance(arrived, float)
            return arrived - started
        assert not isinstance(arrived, float)
        return started.elapsed_time(arrived) / 1e3

    def _mark(self) -> float | torch.cuda.Event:
        if not self._on_cuda:
            return time.perf_counter()
        mark = torch.cuda.Event(enable_timing=True)
        mark.record()
        return mark
