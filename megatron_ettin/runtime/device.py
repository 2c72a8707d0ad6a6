"""Where this process computes: one value, chosen once and passed down."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass
from typing import Literal

import torch

from megatron_ettin.errors import ConfigError

_RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Device:
    """The CPU, or one GPU of this node."""

    type: Literal["cpu", "cuda"]
    index: int
    """Number of the GPU on this node; 0 on a CPU."""

    @property
    def torch_device(self) -> torch.device:
        """The same device as torch's type."""
        return torch.device("cpu") if self.type == "cpu" else torch.device("cuda", self.index)

    @property
    def backend(self) -> str:
        """Name of the communication library for this device."""
        return "gloo" if self.type == "cpu" else "nccl"


def choose_device(name: str) -> Device:
    """Return the device of this process.

    Args:
        name: ``auto`` (CUDA if available), ``cpu`` or ``cuda``.

    Raises:
        ConfigError: ``cuda`` was given and is not available.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no CUDA device here; use --device cpu or auto")
    if name == "cpu" or not torch.cuda.is_available():
        return Device("cpu", 0)
    return Device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def peak_memory_bytes(device: Device) -> int:
    """Return the peak memory so far: of tensors on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device.index))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT_BYTES


def use_deterministic_kernels() -> None:
    """Restrict this process to deterministic kernels; call it before the first matrix product on a GPU."""
    # cuBLAS reads the first variable when it starts, Transformer Engine the second when it is imported.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] = "0"
    torch.use_deterministic_algorithms(True)
