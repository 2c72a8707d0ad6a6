"""Lengths that may be given in steps or in tokens, and which of the two a run counts in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from megatron_ettin.config.training import OptimizerConfig, TrainingConfig
from megatron_ettin.errors import ConfigError

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


_RANGE = re.compile(r"(\d+)(?::(\d+))?")


def parse_steps(written: str) -> range:
    """Return the steps (1-based) of ``--profile-steps``; none where nothing is written.

    >>> list(parse_steps("10:12")), list(parse_steps("7")), list(parse_steps(""))
    ([10, 11, 12], [7], [])

    Raises:
        ConfigError: it is neither FIRST:LAST nor one step, or the steps do not ascend from 1.
    """
    if not written:
        return range(1, 1)
    match = _RANGE.fullmatch(written)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last:
        raise ConfigError(f"--profile-steps {written}: must be FIRST:LAST or one step, counted from 1, such as 10:12")
    return range(first, last + 1)
