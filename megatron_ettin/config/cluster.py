"""The GPUs that a dry run plans for, and whether a run fits into them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from megatron_ettin.config.attention import MASK_OF_OBJECTIVE
from megatron_ettin.config.errors import ConfigError
from megatron_ettin.config.fields import run_options, spell, value_of
from megatron_ettin.config.memory import MemoryEstimate, estimate_memory
from megatron_ettin.config.run import RunConfig

PLAN_FLAGS: Mapping[str, tuple[str, str]] = {
    "plan_gpus": ("N", "with --dry-run: plan for so many GPUs instead of the ranks of this launch"),
    "plan_gpus_per_node": ("N", "with --dry-run: GPUs that share a machine, within which tensor parallelism stays"),
    "plan_gpu_memory": ("GIB", "with --dry-run: memory of a GPU; refuses what does not fit and recommends what does"),
}
"""Flags of a plan alone, which no run keeps: name -> placeholder and help."""

_GPUS_PER_NODE = 8
_SHARE_FOR_TENSORS = 0.9
_FIXED_BYTES = 2 << 30
"""What CUDA, its libraries and NCCL's buffers take of a GPU before the first tensor."""


@dataclass(frozen=True)
class Cluster:
    """GPUs of one kind."""

    gpus: int
    gpus_per_node: int = _GPUS_PER_NODE
    memory_bytes: int = 0
    """Of one GPU; 0 where it was not told."""

    @property
    def usable_bytes(self) -> int:
        """What tensors may take: the rest goes to CUDA, NCCL, and what the allocator cannot use in pieces."""
        return max(0, int(self.memory_bytes * _SHARE_FOR_TENSORS) - _FIXED_BYTES)


def parse_cluster(flags: Mapping[str, str], world_size: int) -> Cluster | None:
    """Return the cluster that the plan's flags describe, or None where there are none.

    Args:
        flags: what was given of PLAN_FLAGS, as written.
        world_size: ranks of this launch, the GPUs where their number is not given.

    Raises:
        ConfigError: a number that is none or too small, or GPUs that do not fill their machines.
    """
    if not flags:
        return None
    gpus = _whole("plan_gpus", flags.get("plan_gpus", str(world_size)))
    per_node = _whole("plan_gpus_per_node", flags.get("plan_gpus_per_node", str(min(gpus, _GPUS_PER_NODE))))
    if gpus % per_node:
        raise ConfigError(f"--plan-gpus {gpus}: must be a multiple of --plan-gpus-per-node {per_node}")
    return Cluster(gpus, per_node, _gib(flags["plan_gpu_memory"]) if "plan_gpu_memory" in flags else 0)


def fullest_rank(run: RunConfig, cluster: Cluster) -> MemoryEstimate:
    """Return the memory of a rank of the stage that needs most."""
    stages = estimate_memory(run, cluster.gpus, MASK_OF_OBJECTIVE[run.training.objective])
    return max(stages, key=lambda stage: stage.total)


def check_fit(run: RunConfig, cluster: Cluster, recommended: RunConfig | None) -> None:
    """Refuse a run whose ranks need more memory than a GPU of the cluster has.

    Args:
        run: a checked run.
        cluster: where it is to run.
        recommended: the same run laid out so that it fits, if there is one.

    Raises:
        ConfigError: names the flags that decide, and those that would fit.
    """
    needed = fullest_rank(run, cluster).total
    if not cluster.memory_bytes or needed <= cluster.usable_bytes:
        return
    batch = "micro_batch_tokens" if run.training.micro_batch_tokens else "micro_batch_size"
    names = (batch, "tensor_model_parallel_size", "pipeline_model_parallel_size")
    given = " ".join(spell(run, name) for name in names)
    room = f"--plan-gpu-memory {cluster.memory_bytes / 2**30:g} leaves {cluster.usable_bytes / 2**30:.1f} GiB to it"
    way = f"this would fit: {layout_flags(recommended)}" if recommended else "no layout of these GPUs would fit"
    raise ConfigError(f"{given}: the fullest rank needs {needed / 2**30:.1f} GiB, and {room}; {way}")


LAYOUT_FIELDS = (
    "tensor_model_parallel_size",
    "sequence_parallel",
    "pipeline_model_parallel_size",
    "micro_batch_size",
    "recompute_granularity",
    "use_distributed_optimizer",
)
"""What a recommendation decides."""


def layout_flags(run: RunConfig) -> str:
    """Return the flags that lay a run out; what is off is not told."""
    values = {name: value_of(run, name) for name in LAYOUT_FIELDS}
    return " ".join(run_options()[name].spell(value) for name, value in values.items() if value not in (False, ""))


def _whole(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"--{name.replace('_', '-')} {text}: must be a whole number of 1 or more")
    return int(text)


def _gib(text: str) -> int:
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not 0 < size < math.inf:
        raise ConfigError(f"--plan-gpu-memory {text}: must be a number of GiB above 0")
    return int(size * 2**30)
