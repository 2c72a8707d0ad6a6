"""Traces of chosen steps by torch's profiler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from megatron_ettin.config.run import RunConfig
from megatron_ettin.runtime.device import Device
from megatron_ettin.runtime.ranks import Ranks

PROFILE_FOLDER = "profile"


def profile_notes(config: RunConfig, step: int) -> tuple[str, ...]:
    """Return a line if all of ``--profile-steps`` precede a launch that continues from ``step``."""
    profiled = config.training.profile_steps
    if not profiled or profiled.steps.stop > step + 1:
        return ()
    return (f"--profile-steps {profiled}: no trace, as this launch starts with step {step + 1}",)


class Profiler:
    """Records the steps of ``--profile-steps`` and writes SAVE/profile/steps_A_B_rank_R.json.

    The file opens in chrome://tracing, Perfetto or TensorBoard's profiler.
    """

    def __init__(self, config: RunConfig, device: Device, ranks: Ranks) -> None:
        """Set up; recording starts with the first of the steps."""
        self._steps = config.training.profile_steps.steps
        first, last = self._steps.start, self._steps.stop - 1
        self._path = Path(config.checkpoint.save) / PROFILE_FOLDER / f"steps_{first}_{last}_rank_{ranks.rank}.json"
        self._on_cuda = device.type == "cuda"
        self._profile: Any = None

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Record the block if the step (1-based, as logged) is one of ``--profile-steps``."""
        if step not in self._steps:
            yield
            return
        if self._profile is None:
            self._start()
        yield
        self._profile.step()
        if step == self._steps.stop - 1:
            self.close()

    def close(self) -> None:
        """Write the trace, also if the run ends before the last of the steps."""
        if self._profile is None:
            return
        profile, self._profile = self._profile, None
        profile.stop()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        profile.export_chrome_trace(str(self._path))

    def _start(self) -> None:
        from torch.profiler import ProfilerActivity

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_cuda else [])]
        self._profile = torch.profiler.profile(activities=activities, record_shapes=True)
        self._profile.start()
