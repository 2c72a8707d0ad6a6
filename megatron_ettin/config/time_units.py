"""Durations in steps or in tokens: which of the two a run counts in, and the rules between its durations.

The size of a validation is likewise given in global batches or in tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from megatron_ettin.config.run import RunConfig, refuse, run_options, spell, value_of
from megatron_ettin.config.training import OptimizerConfig, TrainingConfig

Unit = Literal["iters", "tokens"]
"""The last part of the fields' names."""

IN_TOKENS: Mapping[str, str] = MappingProxyType(
    {
        "train_iters": "train_tokens",
        "lr_warmup_iters": "lr_warmup_tokens",
        "lr_decay_iters": "lr_decay_tokens",
        "lr_wsd_decay_iters": "lr_wsd_decay_tokens",
        "eval_interval": "eval_interval_tokens",
        "eval_iters": "eval_tokens",
        "save_interval": "save_interval_tokens",
        "save_retain_interval": "save_retain_interval_tokens",
    }
)
"""Field in steps -> the field of the same duration in tokens."""

TWIN: Mapping[str, str] = MappingProxyType({**IN_TOKENS, **{token: step for step, token in IN_TOKENS.items()}})
"""Field -> the field of the same duration in the other unit."""

SCHEDULE_LENGTHS = ("lr_warmup", "lr_decay", "lr_wsd_decay")


def twin_rule(in_steps: str) -> str:
    """Return why a field in steps and its twin in tokens cannot both be set."""
    return f"set the same {'size' if in_steps == 'eval_iters' else 'duration'}; give one of them"


def schedule_unit(optimizer: OptimizerConfig, training: TrainingConfig) -> Unit:
    """Return the unit of the learning-rate schedule: that of its own durations, otherwise the run's."""
    for unit in ("tokens", "iters"):
        if any(getattr(optimizer, f"{length}_{unit}") for length in SCHEDULE_LENGTHS):
            return unit
    return "tokens" if training.train_tokens else "iters"


def schedule_end(optimizer: OptimizerConfig, training: TrainingConfig) -> int:
    """Return the end of the schedule in its unit; 0 where the run does not define it."""
    unit = schedule_unit(optimizer, training)
    return int(getattr(optimizer, f"lr_decay_{unit}") or getattr(training, f"train_{unit}"))


def needs_end(optimizer: OptimizerConfig, unit: Unit) -> bool:
    """Whether the schedule's shape depends on its end."""
    if optimizer.lr_decay_style == "WSD":
        return bool(getattr(optimizer, f"lr_wsd_decay_{unit}"))
    return optimizer.lr_decay_style != "constant"


def is_complete(training: TrainingConfig, step: int, tokens: int) -> bool:
    """Whether a run that has trained ``step`` steps and ``tokens`` tokens is complete."""
    if training.train_tokens:
        return tokens >= training.train_tokens
    return step >= training.train_iters


def check_time_units(config: RunConfig) -> None:
    """Each duration is given in one unit, and those of the schedule in the same; profiled steps are in the run.

    Raises:
        ConfigError: names the flag, its value and the rule.
    """
    for in_steps, in_tokens in IN_TOKENS.items():
        if value_of(config, in_steps) and value_of(config, in_tokens):
            refuse(config, in_tokens, f"and {spell(config, in_steps)} {twin_rule(in_steps)}")
    if schedule_unit(config.optimizer, config.training) == "tokens":
        in_tokens = next((f"{name}_tokens" for name in SCHEDULE_LENGTHS if value_of(config, f"{name}_tokens")), "")
        for length in SCHEDULE_LENGTHS:
            if value_of(config, f"{length}_iters"):
                rule = f"and {spell(config, in_tokens)}: the schedule counts in steps or in tokens, not in both"
                refuse(config, f"{length}_iters", rule)
    steps, last = config.training.profile_steps.steps, config.training.train_iters
    if steps and last and steps.start > last:
        refuse(config, "profile_steps", f"starts after the last step, {spell(config, 'train_iters')}")


def check_schedule(config: RunConfig) -> None:
    """Warm-up, plateau and decay follow each other within the schedule.

    Raises:
        ConfigError: names the flag, its value and the rule.
    """
    optimizer = config.optimizer
    unit = schedule_unit(optimizer, config.training)
    warmup_name, decay_name = f"lr_warmup_{unit}", f"lr_wsd_decay_{unit}"
    warmup, decay = getattr(optimizer, warmup_name), getattr(optimizer, decay_name)
    if decay and optimizer.lr_decay_style != "WSD":
        refuse(config, decay_name, f"needs --lr-decay-style WSD; got {spell(config, 'lr_decay_style')}")
    end = schedule_end(optimizer, config.training)
    end_name = f"lr_decay_{unit}" if getattr(optimizer, f"lr_decay_{unit}") else f"train_{unit}"
    if end == 0:
        _check_end_is_known(config, unit)
        return
    if warmup > end:
        refuse(config, warmup_name, f"must not be longer than the schedule, {spell(config, end_name)}")
    if warmup + decay > end:
        together = f"and {spell(config, warmup_name)} together must not be longer than the schedule"
        refuse(config, decay_name, f"{together}, {spell(config, end_name)}")


def _check_end_is_known(config: RunConfig, unit: Unit) -> None:
    """Refuse a schedule that depends on its end where the run's duration is in the other unit."""
    if needs_end(config.optimizer, unit) and (config.training.train_iters or config.training.train_tokens):
        duration = "train_tokens" if config.training.train_tokens else "train_iters"
        lengths = ", ".join(run_options()[f"{length}_{unit}"].flag for length in SCHEDULE_LENGTHS)
        refuse(config, duration, f"does not define the end of a schedule in the other unit ({lengths}); give its end")
