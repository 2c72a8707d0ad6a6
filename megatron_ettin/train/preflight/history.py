"""Refuse a launch that would mix two training histories: in its ``--save`` folder, or in the order of its data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_ettin.checkpoint.folder.layout import list_steps
from megatron_ettin.config.run import run_options
from megatron_ettin.data.fingerprint import changed_causes
from megatron_ettin.errors import ConfigError
from megatron_ettin.train.preflight.checkpoint import ResumeMode, ResumePlan
from megatron_ettin.train.preflight.prepare import PreparedRun

Changes = Mapping[str, tuple[Any, Any]]
"""What determines the order of the data and changed: cause -> value before and now."""


def check_history(prepared: PreparedRun) -> None:
    """Check that training may continue in ``--save``.

    Raises:
        ConfigError: ``--save`` has checkpoints and ``--load`` is not one of them, or starts another phase; or the
            order of the data has changed without ``--accept-data-change``.
    """
    config, plan = prepared.config, prepared.resume
    save, load = Path(config.checkpoint.save), config.checkpoint.load
    steps = list_steps(save)
    if plan is None:
        if steps:
            rule = f"has checkpoints up to step {steps[-1]}; resume with --load {save}, or save elsewhere"
            raise ConfigError(f"--save {save}: {rule}")
        return
    if steps and plan.folder.resolve().parent != save.resolve():
        raise ConfigError(f"--save {save}: has checkpoints of another run than --load {load}; save elsewhere")
    if plan.mode is ResumeMode.RESUME:
        _check_data_order(prepared, plan)
    elif steps:
        training = config.training
        raise ConfigError(
            f"--save {save}: contains {plan.trained_as}, which --load {load} ends; save "
            f"--objective {training.objective} --phase {training.phase} elsewhere"
        )


def _check_data_order(prepared: PreparedRun, plan: ResumePlan) -> None:
    """Check that a row number still means the same tokens; a checkpoint of an older version does not record it."""
    before = plan.run_json.get("data_order")
    if not before or prepared.config.data.accept_data_change:
        return
    if changes := changed_causes(before, prepared.data_order):
        raise ConfigError(
            f"--load {plan.folder}: the order of its data has changed: {spell_changes(changes)}; "
            "--accept-data-change continues with the new order from the same row number"
        )


def spell_changes(changes: Changes) -> str:
    """Return changed causes, as flags where they have one."""
    return ", ".join(_spell_change(name, *values) for name, values in changes.items())


def _spell_change(name: str, before: Any, now: Any) -> str:
    option = run_options().get(name)
    if option is None:
        return name
    if before is None:
        return option.spell(now)
    return f"{option.spell(now)} (was {before if before != '' else repr(before)})"
