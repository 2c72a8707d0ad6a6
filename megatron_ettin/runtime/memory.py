"""How much memory this process has needed."""

from __future__ import annotations

import resource
import sys

import torch

from megatron_ettin.runtime.device import Device

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def peak_memory_bytes(device: Device) -> int:
    """Return the most memory taken so far: of tensors on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device.index))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
