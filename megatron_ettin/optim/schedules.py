"""Learning rates as pure functions of time.

Time ``t`` counts whatever the caller counts in (steps, samples, tokens); a schedule only needs warm-up, end and length
of the decay in the same unit. The styles and their names are Megatron's; ``1-sqrt`` is the cooldown of Hägele et al.
2024 (arXiv:2405.18392): peak times one less the root of the share of the decay that has passed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from megatron_ettin.config.time_units import needs_end, schedule_end, schedule_unit
from megatron_ettin.config.training import OptimizerConfig, TrainingConfig


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


def build_schedule(optimizer: OptimizerConfig, training: TrainingConfig) -> Callable[[int, int], float]:
    """Return the learning rate of a step by its number (0-based) and the tokens trained before it in this phase.

    In steps, step s is applied with the schedule's value at time s + 1, so that with a warm-up of W steps the first
    step already moves the weights, by peak / W, and step W - 1 is the first at the peak. In tokens a step is applied
    with the value at the tokens before it: its own are not known before it is made. The first step of a warm-up then
    has a rate of 0, as in the published runs.
    """
    unit = schedule_unit(optimizer, training)
    schedule = phase_schedule(optimizer, training)
    if unit == "tokens":
        return lambda step, tokens: schedule(tokens)
    return lambda step, tokens: schedule(step + 1)


def phase_schedule(optimizer: OptimizerConfig, training: TrainingConfig) -> Schedule:
    """Return the learning rate over the time of a phase, in the unit that its schedule counts in."""
    unit = schedule_unit(optimizer, training)
    return Schedule(
        # Where the end is not told, it makes no difference.
        style=optimizer.lr_decay_style if needs_end(optimizer, unit) else "constant",
        peak=optimizer.lr,
        floor=optimizer.min_lr,
        warmup=getattr(optimizer, f"lr_warmup_{unit}"),
        decay_end=schedule_end(optimizer, training),
        decay_length=getattr(optimizer, f"lr_wsd_decay_{unit}"),
    )


def learning_rate_path(optimizer: OptimizerConfig, training: TrainingConfig) -> tuple[tuple[int, float], ...]:
    """Return times worth telling, in the schedule's unit, each with its learning rate: corners and quarters."""
    schedule, end = phase_schedule(optimizer, training), schedule_end(optimizer, training)
    corners = {0, int(schedule.warmup)}
    if end:
        corners |= {end // 4, end // 2, 3 * end // 4, end - int(schedule.decay_length), end}
    return tuple((time, schedule(time)) for time in sorted(corners))


def _linear(passed: float) -> float:
    return 1.0 - passed


def _cosine(passed: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * passed))


def _one_less_root(passed: float) -> float:
    return 1.0 - math.sqrt(passed)


_REMAINING = {"linear": _linear, "cosine": _cosine, "WSD": _linear, "1-sqrt": _one_less_root}
"""Share of the height above the floor that is left when a share ``passed`` of the decay has gone by."""
