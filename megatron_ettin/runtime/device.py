"""The device seam: one value, chosen once, handed down; its memory, peak rate and deterministic kernels."""

from __future__ import annotations

import os
import re
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch

from megatron_ettin.errors import ConfigError


@dataclass(frozen=True)
class Device:
    """Where this process computes."""

    type: Literal["cpu", "cuda"]
    index: int
    """Number of the GPU on this node; 0 on a CPU."""

    @property
    def torch_device(self) -> torch.device:
        """The same place in torch's words."""
        return torch.device("cpu") if self.type == "cpu" else torch.device("cuda", self.index)

    @property
    def backend(self) -> str:
        """Name of the communication library that goes with it."""
        return "gloo" if self.type == "cpu" else "nccl"


def choose_device(name: str) -> Device:
    """Return the device for this process.

    Args:
        name: ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``.

    Raises:
        ConfigError: ``cuda`` was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no CUDA device here; use --device cpu or auto")
    if name == "cpu" or not torch.cuda.is_available():
        return Device("cpu", 0)
    return Device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def peak_memory_bytes(device: Device) -> int:
    """Return the most memory taken so far: of tensors on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device.index))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


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


def be_deterministic() -> None:
    """Let this process use no other kernels; must come before its first product on a GPU."""
    # cuBLAS reads the first when it starts, Transformer Engine the second when it is imported.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] = "0"
    torch.use_deterministic_algorithms(True)
