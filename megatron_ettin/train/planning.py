"""A dry run: the plan together with the learning rates that the run would have."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_ettin.config.plan import Plan, build_plan
from megatron_ettin.config.run import RunConfig
from megatron_ettin.optim.schedules import learning_rate_path


def plan_run(run: RunConfig, world_size: int, notes: Sequence[str] = ()) -> Plan:
    """Work out a run that preflight has found fit, without torch and megatron-core."""
    return build_plan(run, world_size, notes, learning_rate_path(run.optimizer, run.training))
