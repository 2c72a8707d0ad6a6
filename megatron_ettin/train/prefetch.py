"""Micro-batches in training order, built in a thread while the previous step is computed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, replace
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.runtime.device import Device


class BatchPrefetcher:
    """Gives each step's micro-batches and builds the next step's meanwhile; for a GPU, in page-locked memory.

    The copies to the GPU run in the computing stream, ahead of the step that reads them; they take a thousandth of its
    time at most, so a second stream would gain nothing. A caller that keeps a batch until its step's results are read,
    as the training loop does, never sees its memory reused too early.
    """

    def __init__(self, build: Callable[[int], list[PackedBatch]], steps: range, device: Device) -> None:
        """Start the thread; leaving the context ends it.

        Args:
            build: returns this rank's micro-batches of a step.
            steps: the steps that may be asked for, in order.
            device: where the batches are used.
        """
        self._build_batches = build
        self._steps = steps
        self._device = device
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._pending: dict[int, Future[list[PackedBatch]]] = {}

    def __enter__(self) -> Self:
        """Return the prefetcher."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the thread to end."""
        self._thread.shutdown()

    def batches(self, step: int) -> list[PackedBatch]:
        """Return the micro-batches of a step, and start to build those of the next one."""
        current = self._pending.pop(step, None) or self._thread.submit(self._build, step)
        if step + 1 in self._steps:
            self._pending[step + 1] = self._thread.submit(self._build, step + 1)
        return current.result()

    def _build(self, step: int) -> list[PackedBatch]:
        if self._device.type != "cuda":
            return self._build_batches(step)
        # A new thread starts on the first GPU, and would allocate memory there.
        torch.cuda.set_device(self._device.index)
        return [pin_batch(batch) for batch in self._build_batches(step)]


def pin_batch(batch: PackedBatch) -> PackedBatch:
    """Return the batch with its arrays in page-locked memory; CUDA cannot lock empty ones."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    pinned: dict[str, Any] = {name: _pin(array) for name, array in arrays.items() if array.size}
    return replace(batch, **pinned)


def _pin(array: NDArray[Any]) -> NDArray[Any]:
    pinned: NDArray[Any] = torch.from_numpy(array).pin_memory().numpy()
    return pinned
