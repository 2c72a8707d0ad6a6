"""How many operations a second a device can do at best: what MFU is a share of."""

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
"""Words of a GPU's name -> dense bf16 operations a second, by the vendors' data sheets; the first match counts."""

_GPU_SIZE = 8192
_CPU_SIZE = 768


def peak_rate(device: Device, *, bf16: bool) -> float:
    """Return the operations a second of one rank's device at best.

    A GPU that the table knows is held to its data sheet in bf16; all else to a matrix product timed here.

    Args:
        device: of this rank.
        bf16: whether the run computes in it.
    """
    if device.type == "cuda" and bf16:
        name = torch.cuda.get_device_name(device.index)
        for part, rate in _DENSE_BF16.items():
            if re.search(rf"\b{part}\b", name):  # an RTX A4000 is no A40
                return rate
    return product_rate(device, torch.bfloat16 if bf16 else torch.float32)


def product_rate(device: Device, dtype: torch.dtype, *, size: int = 0, rounds: int = 4) -> float:
    """Return the operations a second of a product of two square matrices of random values, the fastest of a few rounds.

    Args:
        device: where to multiply.
        dtype: of the values.
        size: rows and columns; 0 takes what shows a device of this type at its best within a blink.
        rounds: how often.
    """
    size = size or (_GPU_SIZE if device.type == "cuda" else _CPU_SIZE)
    own = torch.Generator().manual_seed(0)  # the process's own generator belongs to dropout
    a, b = (torch.randn(size, size, generator=own).to(device.torch_device, dtype) for _ in range(2))
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
