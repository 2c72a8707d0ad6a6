"""Learning rates as pure functions of time.

Time ``t`` is in steps or tokens; a schedule only needs warm-up, end and length of the decay in the same unit. The
styles and their names are Megatron's; ``1-sqrt`` is the cooldown of Hägele et al. 2024 (arXiv:2405.18392): the peak
times 1 - sqrt(x), where x is the fraction of the decay that has passed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from megatron_ettin.config.time_units import needs_end, schedule_end, schedule_unit
from megatron_ettin.config.training import OptimizerConfig, TrainingConfig


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from zero to ``peak``, then a decay to ``floor``, which is kept."""

    style: str
    peak: float
    floor: float
    warmup: float
    """Time of the peak."""
    decay_end: float
    """Time at which the decay ends."""
    decay_length: float
    """Duration of the decay of WSD; the decay of other styles starts at the end of the warm-up."""

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


def build_schedule(optimizer: OptimizerConfig, training: TrainingConfig) -> Callable[[int, int], float]:
    """Return the learning rate as a function of the step (0-based) and the tokens before it in this phase.

    In steps, step s has the schedule's value at time s + 1: with a warm-up of W steps, the first step has the rate
    peak / W, and step W - 1 is the first at the peak. In tokens, a step has the value at the tokens before it, since
    its own are not known in advance. The first step of a warm-up then has the rate 0, as in the published runs.
    """
    unit = schedule_unit(optimizer, training)
    schedule = phase_schedule(optimizer, training)
    if unit == "tokens":
        return lambda step, tokens: schedule(tokens)
    return lambda step, tokens: schedule(step + 1)


def phase_schedule(optimizer: OptimizerConfig, training: TrainingConfig) -> Schedule:
    """Return the schedule of a phase, in its own unit of time."""
    unit = schedule_unit(optimizer, training)
    return Schedule(
        # A schedule that needs no end is constant after the warm-up.
        style=optimizer.lr_decay_style if needs_end(optimizer, unit) else "constant",
        peak=optimizer.lr,
        floor=optimizer.min_lr,
        warmup=getattr(optimizer, f"lr_warmup_{unit}"),
        decay_end=schedule_end(optimizer, training),
        decay_length=getattr(optimizer, f"lr_wsd_decay_{unit}"),
    )


def learning_rate_path(optimizer: OptimizerConfig, training: TrainingConfig) -> tuple[tuple[int, float], ...]:
    """Return (time, learning rate) at the corners and quarters of a schedule, in its unit of time."""
    schedule, end = phase_schedule(optimizer, training), schedule_end(optimizer, training)
    corners = {0, int(schedule.warmup)}
    if end:
        corners |= {end // 4, end // 2, 3 * end // 4, end - int(schedule.decay_length), end}
    return tuple((time, schedule(time)) for time in sorted(corners))


def _linear(passed: float) -> float:
    return 1.0 - passed


def _cosine(passed: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * passed))


def _one_minus_root(passed: float) -> float:
    return 1.0 - math.sqrt(passed)


_REMAINING = {"linear": _linear, "cosine": _cosine, "WSD": _linear, "1-sqrt": _one_minus_root}
"""Fraction of peak - floor that remains after a fraction ``passed`` of the decay."""
