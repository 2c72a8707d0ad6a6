"""The GPUs that a dry run plans for: whether a run fits their memory, and the recommended layout."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from megatron_ettin.cli import parse_count
from megatron_ettin.config.checks import check_run
from megatron_ettin.config.parallel import data_parallel_size
from megatron_ettin.config.run import RunConfig, run_options, spell, value_of
from megatron_ettin.errors import ConfigError
from megatron_ettin.planning.memory import MemoryEstimate, estimate_memory

_GPUS_PER_NODE = 8
_SHARE_FOR_TENSORS = 0.9
_FIXED_BYTES = 2 << 30
"""Memory of a GPU that CUDA, its libraries and NCCL's buffers take before the first tensor."""

_ENOUGH_POSITIONS = 8192
"""Positions of a micro-batch whose matrix products fill a GPU."""
_MOST_POSITIONS = 65_536
_RECOMPUTATIONS = ("", "selective", "full")
"""Cheapest first."""

LAYOUT_FIELDS = (
    "tensor_model_parallel_size",
    "sequence_parallel",
    "pipeline_model_parallel_size",
    "micro_batch_size",
    "recompute_granularity",
    "use_distributed_optimizer",
)
"""The settings of a recommendation."""


@dataclass(frozen=True)
class Cluster:
    """GPUs of one kind."""

    gpus: int
    gpus_per_node: int = _GPUS_PER_NODE
    memory_bytes: int = 0
    """Of one GPU; 0 where not given."""

    @property
    def usable_bytes(self) -> int:
        """Bytes for tensors: the rest is for CUDA, NCCL and fragmentation of the allocator."""
        return max(0, int(self.memory_bytes * _SHARE_FOR_TENSORS) - _FIXED_BYTES)


def parse_cluster(flags: Mapping[str, str], world_size: int) -> Cluster | None:
    """Return the cluster that the flags of a plan describe, or None without any.

    Args:
        flags: the given flags of PLAN_FLAGS, as text.
        world_size: ranks of this launch, the default number of GPUs.

    Raises:
        ConfigError: not a number, or too small, or GPUs that do not fill their machines.
    """
    if not flags:
        return None
    gpus = _whole("plan_gpus", flags.get("plan_gpus", str(world_size)))
    per_node = _whole("plan_gpus_per_node", flags.get("plan_gpus_per_node", str(min(gpus, _GPUS_PER_NODE))))
    if gpus % per_node:
        raise ConfigError(f"--plan-gpus {gpus}: must be a multiple of --plan-gpus-per-node {per_node}")
    return Cluster(gpus, per_node, _gib(flags["plan_gpu_memory"]) if "plan_gpu_memory" in flags else 0)


def _whole(name: str, text: str) -> int:
    number = parse_count(text)
    if not number:
        raise ConfigError(f"--{name.replace('_', '-')} {text}: must be a whole number of 1 or more")
    return number


def _gib(text: str) -> int:
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not 0 < size < math.inf:
        raise ConfigError(f"--plan-gpu-memory {text}: must be a number of GiB above 0")
    return int(size * 2**30)


def fullest_rank(config: RunConfig, cluster: Cluster) -> MemoryEstimate:
    """Return the memory of a rank of the stage that needs the most."""
    return max(estimate_memory(config, cluster.gpus), key=lambda stage: stage.total)


def check_fit(config: RunConfig, cluster: Cluster, recommended: RunConfig | None) -> None:
    """Refuse a run whose ranks need more memory than a GPU of the cluster has.

    Args:
        config: a checked run.
        cluster: the GPUs.
        recommended: the run in a layout that fits, if there is one.

    Raises:
        ConfigError: names the flags that determine the memory, and those that would fit.
    """
    needed = fullest_rank(config, cluster).total
    if not cluster.memory_bytes or needed <= cluster.usable_bytes:
        return
    batch = "micro_batch_tokens" if config.training.micro_batch_tokens else "micro_batch_size"
    names = (batch, "tensor_model_parallel_size", "pipeline_model_parallel_size")
    given = " ".join(spell(config, name) for name in names)
    room = f"--plan-gpu-memory {cluster.memory_bytes / 2**30:g} leaves {cluster.usable_bytes / 2**30:.1f} GiB for it"
    advice = f"this would fit: {layout_flags(recommended)}" if recommended else "no layout of these GPUs would fit"
    raise ConfigError(f"{given}: the fullest rank needs {needed / 2**30:.1f} GiB, and {room}; {advice}")


def layout_flags(config: RunConfig) -> str:
    """Return the layout of a run as flags, without those that are off."""
    values = {name: value_of(config, name) for name in LAYOUT_FIELDS}
    return " ".join(run_options()[name].spell(value) for name, value in values.items() if value not in (False, ""))


def recommend_layout(config: RunConfig, cluster: Cluster) -> RunConfig | None:
    """Return the run in the best layout for the cluster, or None where none fits or micro-batches are in tokens.

    Only layout, micro-batch size and recomputation change.
    """
    if config.training.micro_batch_tokens or not cluster.memory_bytes:
        return None
    for tp, pp in _model_sizes(cluster):
        best = _best_batch(config, cluster, tp, pp)
        if best is not None:
            return best
    return None


def _model_sizes(cluster: Cluster) -> Iterator[tuple[int, int]]:
    """Yield tensor- and pipeline-parallel sizes, smallest product first, tensor parallelism before pipeline."""
    sizes = [2**power for power in range(cluster.gpus.bit_length())]
    pairs = [(tp, pp) for tp in sizes for pp in sizes if tp <= cluster.gpus_per_node and cluster.gpus % (tp * pp) == 0]
    return iter(sorted(pairs, key=lambda pair: (pair[0] * pair[1], pair[1])))


def _best_batch(config: RunConfig, cluster: Cluster, tp: int, pp: int) -> RunConfig | None:
    """Return the cheapest recomputation with a large enough micro-batch, otherwise the largest micro-batch."""
    best: RunConfig | None = None
    for granularity in _RECOMPUTATIONS:
        candidate = _largest_batch(config, cluster, tp, pp, granularity)
        if candidate is None:
            continue
        if best is None or candidate.training.micro_batch_size > best.training.micro_batch_size:
            best = candidate
        if candidate.training.micro_batch_size * config.data.seq_length >= _ENOUGH_POSITIONS:
            break
    return best


def _largest_batch(config: RunConfig, cluster: Cluster, tp: int, pp: int, granularity: str) -> RunConfig | None:
    layout = {
        "tensor_model_parallel_size": tp,
        "sequence_parallel": tp > 1,
        "pipeline_model_parallel_size": pp,
        "recompute_granularity": granularity,
        "recompute_num_layers": 0,
    }
    laid_out = config.with_values(layout)
    dp = data_parallel_size(laid_out.parallel, cluster.gpus)
    rows, uneven = divmod(config.training.global_batch_size, dp)
    if uneven and not config.training.global_batch_tokens:
        return None
    most = max(1, _MOST_POSITIONS // config.data.seq_length)
    for size in (count for count in range(min(rows, most), 0, -1) if rows % count == 0):
        candidate = laid_out.with_values({"micro_batch_size": size, "use_distributed_optimizer": dp > 1})
        if _is_allowed(candidate, cluster) and fullest_rank(candidate, cluster).total <= cluster.usable_bytes:
            return candidate
    return None


def _is_allowed(config: RunConfig, cluster: Cluster) -> bool:
    try:
        check_run(config, cluster.gpus, planning=True)
    except ConfigError:
        return False
    return True
