"""What a run is told to do otherwise than the checkpoint it goes on from."""

from __future__ import annotations

from typing import Any

from megatron_ettin.config.fields import run_options, spell, value_of
from megatron_ettin.config.run import RunConfig

_SECTIONS = ("model", "data", "training", "optimizer")
"""Those that decide what is computed; the layout is told of elsewhere, places are expected to change."""

_EXPECTED = (
    "data_path",
    "data_cache_path",
    "accept_data_change",
    "tokenizer_model",
    "exit_interval",
    "exit_after_minutes",
    "max_skipped_steps",
    "eval_only",
    "eval_interval",
    "eval_interval_tokens",
    "real_tokens_per_row",
    "eval_iters",
    "log_interval",
    "profile_steps",
)
"""Settings of a launch, and paths, which may name the same files."""


def changed_settings(before: dict[str, dict[str, Any]], run: RunConfig) -> str:
    """Return the settings that differ from a checkpoint's config as flags, or nothing where none does.

    A run does not go on to the bit with another seed, batch or schedule; whoever changes them by mistake, by leaving a
    flag away, should see it.
    """
    differing = [
        f"{spell(run, name)} (was {before[option.section][name]})"
        for name, option in run_options().items()
        if option.section in _SECTIONS
        and name not in _EXPECTED
        and before.get(option.section, {}).get(name, value_of(run, name)) != value_of(run, name)
    ]
    return ", ".join(differing)
