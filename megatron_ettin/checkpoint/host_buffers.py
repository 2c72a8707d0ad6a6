"""Copies of a rank's tensors in host memory, which training does not touch while they are being written."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor


class HostBuffers:
    """One buffer for each tensor that a rank saves, allocated at the first save and used again by all later ones.

    They take as much host memory as this rank's part of a checkpoint. Next to a GPU they are pinned, so that copies
    run at the speed of the bus.
    """

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._buffers: dict[Hashable, Tensor] = {}

    def copy(self, key: Hashable, tensor: Tensor) -> Tensor:
        """Begin to copy a tensor and return the copy, which holds it after :meth:`wait`."""
        buffer = self._buffers.get(key)
        if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=self._pinned)
            self._buffers[key] = buffer
        buffer.copy_(tensor.detach(), non_blocking=self._pinned)
        return buffer

    def wait(self) -> None:
        """Return when all copies have been made."""
        if self._pinned:
            torch.cuda.synchronize()
