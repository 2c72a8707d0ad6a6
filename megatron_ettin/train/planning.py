"""A dry run: the plan together with the learning rates that the run would have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from megatron_ettin.config.cluster import Cluster, check_fit
from megatron_ettin.config.plan import Plan, build_plan
from megatron_ettin.config.recommend import recommend_layout
from megatron_ettin.config.run import RunConfig
from megatron_ettin.optim.schedules import learning_rate_path


def plan_run(run: RunConfig, world_size: int, notes: Sequence[str] = (), cluster: Cluster | None = None) -> Plan:
    """Work out a run that preflight has found fit, without torch and megatron-core.

    Args:
        run: the run.
        world_size: ranks of this launch.
        notes: what to tell besides.
        cluster: the GPUs to plan for instead.

    Raises:
        ConfigError: a rank of the run needs more memory than a GPU of the cluster has.
    """
    rates = learning_rate_path(run.optimizer, run.training)
    if cluster is None:
        return build_plan(run, world_size, notes, rates)
    recommended = recommend_layout(run, cluster)
    check_fit(run, cluster, recommended)
    return replace(build_plan(run, cluster.gpus, notes, rates), cluster=cluster, recommended=recommended)
