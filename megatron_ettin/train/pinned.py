"""Batches in page-locked memory, from which a GPU copies while it computes and the host goes on.

Out of ordinary memory a copy goes through a buffer of the driver, and the host waits until it is through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.runtime.device import Device

Build = Callable[[int], list[PackedBatch]]
"""Gives this rank's micro-batches of a step."""


def pinned(build: Build, device: Device) -> Build:
    """Return ``build`` with its batches page-locked by the thread that builds them; on a CPU ``build`` itself.

    The copies go into the stream that computes, in order before the step that reads them; they are a thousandth of it
    at most, so a stream of their own would win nothing. Who holds a batch until its step's results were read, as the
    training loop does, need not fear that the memory is used again too early.
    """
    if device.type != "cuda":
        return build

    def build_pinned(step: int) -> list[PackedBatch]:
        # A new thread stands at the first GPU, and would take memory of it.
        torch.cuda.set_device(device.index)
        return [pin_batch(batch) for batch in build(step)]

    return build_pinned


def pin_batch(batch: PackedBatch) -> PackedBatch:
    """Return a batch of the same values whose arrays are page-locked; an empty one has nothing to lock."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    locked: dict[str, Any] = {name: _pin(array) for name, array in arrays.items() if array.size}
    return replace(batch, **locked)


def _pin(array: NDArray[Any]) -> NDArray[Any]:
    found: NDArray[Any] = torch.from_numpy(array).pin_memory().numpy()
    return found
