"""The GPUs that a dry run plans for: whether a run fits, and which layout is recommended."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from megatron_ettin.config.checks import check_run
from megatron_ettin.config.objectives import mask_kind_of
from megatron_ettin.config.parallel import data_parallel_size
from megatron_ettin.config.run import RunConfig, run_options, spell, value_of
from megatron_ettin.errors import ConfigError
from megatron_ettin.planning.memory import MemoryEstimate, estimate_memory

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
        """What tensors may take: the rest goes to CUDA, NCCL, and what the allocator cannot use in chunks."""
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


def fullest_rank(config: RunConfig, cluster: Cluster) -> MemoryEstimate:
    """Return the memory of a rank of the stage that needs most."""
    stages = estimate_memory(config, cluster.gpus, mask_kind_of(config.training.objective))
    return max(stages, key=lambda stage: stage.total)


def check_fit(config: RunConfig, cluster: Cluster, recommended: RunConfig | None) -> None:
    """Refuse a run whose ranks need more memory than a GPU of the cluster has.

    Args:
        config: a checked run.
        cluster: where it is to run.
        recommended: the same run laid out so that it fits, if there is one.

    Raises:
        ConfigError: names the flags that decide, and those that would fit.
    """
    needed = fullest_rank(config, cluster).total
    if not cluster.memory_bytes or needed <= cluster.usable_bytes:
        return
    batch = "micro_batch_tokens" if config.training.micro_batch_tokens else "micro_batch_size"
    names = (batch, "tensor_model_parallel_size", "pipeline_model_parallel_size")
    given = " ".join(spell(config, name) for name in names)
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


def layout_flags(config: RunConfig) -> str:
    """Return the flags that lay a run out; what is off is not told."""
    values = {name: value_of(config, name) for name in LAYOUT_FIELDS}
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


_ENOUGH_POSITIONS = 8192
"""Of a micro-batch: its matrix products fill a GPU."""
_MOST_POSITIONS = 65_536
_RECOMPUTATIONS = ("", "selective", "full")
"""From the cheapest."""


def recommend_layout(config: RunConfig, cluster: Cluster) -> RunConfig | None:
    """Return the run laid out for the cluster, or None where nothing fits or micro-batches are counted in tokens.

    Layout, micro-batch and recomputation are chosen anew; everything else stays as it is.
    """
    if config.training.micro_batch_tokens or not cluster.memory_bytes:
        return None
    for tp, pp in _model_sizes(cluster):
        found = _best_batch(config, cluster, tp, pp)
        if found is not None:
            return found
    return None


def _model_sizes(cluster: Cluster) -> Iterator[tuple[int, int]]:
    """Yield tensor- and pipeline-parallel sizes, from the smallest product; tensor parallelism first."""
    sizes = [2**power for power in range(cluster.gpus.bit_length())]
    pairs = [(tp, pp) for tp in sizes for pp in sizes if tp <= cluster.gpus_per_node and cluster.gpus % (tp * pp) == 0]
    return iter(sorted(pairs, key=lambda pair: (pair[0] * pair[1], pair[1])))


def _best_batch(config: RunConfig, cluster: Cluster, tp: int, pp: int) -> RunConfig | None:
    """Return the cheapest recomputation with a large enough micro-batch, else the largest micro-batch there is."""
    best: RunConfig | None = None
    for granularity in _RECOMPUTATIONS:
        found = _largest_batch(config, cluster, tp, pp, granularity)
        if found is None:
            continue
        if best is None or found.training.micro_batch_size > best.training.micro_batch_size:
            best = found
        if found.training.micro_batch_size * config.data.seq_length >= _ENOUGH_POSITIONS:
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
        found = laid_out.with_values({"micro_batch_size": size, "use_distributed_optimizer": dp > 1})
        if _is_allowed(found, cluster) and fullest_rank(found, cluster).total <= cluster.usable_bytes:
            return found
    return None


def _is_allowed(config: RunConfig, cluster: Cluster) -> bool:
    try:
        check_run(config, cluster.gpus, planning=True)
    except ConfigError:
        return False
    return True
