"""Lengths that may be given in steps or in tokens, and which of the two a run counts in."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from megatron_ettin.config.training import OptimizerConfig, TrainingConfig

Unit = Literal["iters", "tokens"]
"""As the fields' names end."""

IN_TOKENS: Mapping[str, str] = MappingProxyType(
    {
        "train_iters": "train_tokens",
        "lr_warmup_iters": "lr_warmup_tokens",
        "lr_decay_iters": "lr_decay_tokens",
        "lr_wsd_decay_iters": "lr_wsd_decay_tokens",
        "eval_interval": "eval_interval_tokens",
        "save_interval": "save_interval_tokens",
        "save_retain_interval": "save_retain_interval_tokens",
    }
)
"""Field in steps -> the field of the same thing in tokens."""

TWIN: Mapping[str, str] = MappingProxyType({**IN_TOKENS, **{token: step for step, token in IN_TOKENS.items()}})
"""Field -> the field that says the same in the other unit."""

SCHEDULE_LENGTHS = ("lr_warmup", "lr_decay", "lr_wsd_decay")


def schedule_unit(optimizer: OptimizerConfig, training: TrainingConfig) -> Unit:
    """Return what the learning rate's schedule counts: what its own lengths are in, else what the run's is in."""
    for unit in ("tokens", "iters"):
        if any(getattr(optimizer, f"{length}_{unit}") for length in SCHEDULE_LENGTHS):
            return unit
    return "tokens" if training.train_tokens else "iters"


def schedule_end(optimizer: OptimizerConfig, training: TrainingConfig) -> int:
    """Return when the schedule ends, in its unit; 0 where the run says nothing about it."""
    unit = schedule_unit(optimizer, training)
    return int(getattr(optimizer, f"lr_decay_{unit}") or getattr(training, f"train_{unit}"))


def needs_end(optimizer: OptimizerConfig, unit: Unit) -> bool:
    """Whether the schedule's shape depends on when it ends."""
    if optimizer.lr_decay_style == "WSD":
        return bool(getattr(optimizer, f"lr_wsd_decay_{unit}"))
    return optimizer.lr_decay_style != "constant"


def is_complete(training: TrainingConfig, step: int, tokens: int) -> bool:
    """Whether a run that has made these steps and trained these tokens is at its end."""
    if training.train_tokens:
        return tokens >= training.train_tokens
    return step >= training.train_iters
