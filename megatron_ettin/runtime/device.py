"""The device seam: one value, chosen once, handed down."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import torch

from megatron_ettin.config.errors import ConfigError


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
