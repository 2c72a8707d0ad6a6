"""Learning rates as pure functions of time.

Time ``t`` counts whatever the caller counts in (steps, samples, tokens); a schedule only needs warm-up, end and length
of the decay in the same unit. The styles and their names are Megatron's; ``1-sqrt`` is the cooldown of Hägele et al.
2024 (arXiv:2405.18392): peak times one less the root of the share of the decay that has passed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from megatron_ettin.config.training import OptimizerConfig


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from zero to ``peak``, then a way down to ``floor``, which holds ever after."""

    style: str
    peak: float
    floor: float
    warmup: float
    """Time at which the peak is reached."""
    decay_end: float
    """Time at which the floor is reached."""
    decay_length: float
    """How long WSD's way down takes; the other styles begin theirs where the warm-up ends."""

    def __call__(self, t: float) -> float:
        """Return the learning rate at time ``t``."""
        if t < self.warmup:
            return self.peak * t / self.warmup
        if self.style == "constant":
            return self.peak
        start = self.decay_end - self.decay_length if self.style == "WSD" else self.warmup
        if t <= start:
            return self.peak
        if t >= self.decay_end:
            return self.floor
        passed = (t - start) / (self.decay_end - start)
        return self.floor + (self.peak - self.floor) * _REMAINING[self.style](passed)


def build_schedule(config: OptimizerConfig, train_iters: int) -> Callable[[int], float]:
    """Return the learning rate of a step (0-based), by the run's settings.

    Step s is applied with the schedule's value at time s + 1, so that with a warm-up of W steps the first step already
    moves the weights, by peak / W, and step W - 1 is the first at the peak.
    """
    decay_end = config.lr_decay_iters or train_iters
    schedule = Schedule(
        style=config.lr_decay_style,
        peak=config.lr,
        floor=config.min_lr,
        warmup=config.lr_warmup_iters,
        decay_end=decay_end,
        decay_length=config.lr_wsd_decay_iters,
    )
    return lambda step: schedule(step + 1)


def _linear(passed: float) -> float:
    return 1.0 - passed


def _cosine(passed: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * passed))


def _one_less_root(passed: float) -> float:
    return 1.0 - math.sqrt(passed)


_REMAINING = {"linear": _linear, "cosine": _cosine, "WSD": _linear, "1-sqrt": _one_less_root}
"""Share of the height above the floor that is left when a share ``passed`` of the decay has gone by."""
