"""How long a rank works on a step by itself: from its beginning until it has to wait for the other ranks."""

from __future__ import annotations

import time

import torch

from megatron_ettin.runtime.device import Device


class Stopwatch:
    """Takes the time of steps where they are computed, without ever waiting for the device.

    On a GPU the host runs ahead, so marks are put into the stream and read when later work of the step was waited for
    anyway; on a CPU the clock is read. A step that never arrived counts for nothing.
    """

    def __init__(self, device: Device) -> None:
        """Set up for one rank's device."""
        self._on_cuda = device.type == "cuda"
        self._began: float | torch.cuda.Event | None = None
        self._arrived: float | torch.cuda.Event | None = None

    def begin(self) -> None:
        """Mark where a step begins, the wait for its batches included."""
        self._began, self._arrived = self._mark(), None

    def arrive(self) -> None:
        """Mark where this rank has done all it can do alone, in a step that began here."""
        if self._began is not None:
            self._arrived = self._mark()

    def seconds(self) -> float:
        """Return the seconds between the two marks of the latest step, 0 without them.

        On a GPU the step's results must have been read before.
        """
        began, arrived, self._began, self._arrived = self._began, self._arrived, None, None
        if began is None or arrived is None:
            return 0.0
        if isinstance(began, float):
            assert isinstance(arrived, float)
            return arrived - began
        assert not isinstance(arrived, float)
        return began.elapsed_time(arrived) / 1e3

    def _mark(self) -> float | torch.cuda.Event:
        if not self._on_cuda:
            return time.perf_counter()
        mark = torch.cuda.Event(enable_timing=True)
        mark.record()
        return mark
