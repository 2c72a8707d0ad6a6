"""The layout that a cluster is recommended for a run: what fits, with the least lost to it.

Every rank that shares a copy of the model costs communication in each layer, so as few as fit share one: tensor
parallelism while they sit in one machine, pipeline stages beyond. Then a micro-batch that fills a GPU is worth a
recomputation, and a larger one than that is worth nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from megatron_ettin.config.checks import check_run
from megatron_ettin.config.cluster import Cluster, fullest_rank
from megatron_ettin.config.errors import ConfigError
from megatron_ettin.config.parallel import data_parallel_size
from megatron_ettin.config.run import RunConfig

_ENOUGH_POSITIONS = 8192
"""Of a micro-batch: its matrix products fill a GPU."""
_MOST_POSITIONS = 65_536
_RECOMPUTATIONS = ("", "selective", "full")
"""From the cheapest."""


def recommend_layout(run: RunConfig, cluster: Cluster) -> RunConfig | None:
    """Return the run laid out for the cluster, or None where nothing fits or micro-batches are counted in tokens.

    Layout, micro-batch and recomputation are chosen anew; everything else stays as it is.
    """
    if run.training.micro_batch_tokens or not cluster.memory_bytes:
        return None
    for tp, pp in _model_sizes(cluster):
        found = _best_batch(run, cluster, tp, pp)
        if found is not None:
            return found
    return None


def _model_sizes(cluster: Cluster) -> Iterator[tuple[int, int]]:
    """Yield tensor- and pipeline-parallel sizes, from the smallest product; tensor parallelism first."""
    sizes = [2**power for power in range(cluster.gpus.bit_length())]
    pairs = [(tp, pp) for tp in sizes for pp in sizes if tp <= cluster.gpus_per_node and cluster.gpus % (tp * pp) == 0]
    return iter(sorted(pairs, key=lambda pair: (pair[0] * pair[1], pair[1])))


def _best_batch(run: RunConfig, cluster: Cluster, tp: int, pp: int) -> RunConfig | None:
    """Return the cheapest recomputation with a large enough micro-batch, else the largest micro-batch there is."""
    best: RunConfig | None = None
    for granularity in _RECOMPUTATIONS:
        found = _largest_batch(run, cluster, tp, pp, granularity)
        if found is None:
            continue
        if best is None or found.training.micro_batch_size > best.training.micro_batch_size:
            best = found
        if found.training.micro_batch_size * run.data.seq_length >= _ENOUGH_POSITIONS:
            break
    return best


def _largest_batch(run: RunConfig, cluster: Cluster, tp: int, pp: int, granularity: str) -> RunConfig | None:
    layout = {
        "tensor_model_parallel_size": tp,
        "sequence_parallel": tp > 1,
        "pipeline_model_parallel_size": pp,
        "recompute_granularity": granularity,
        "recompute_num_layers": 0,
    }
    laid_out = run.with_values(layout)
    dp = data_parallel_size(laid_out.parallel, cluster.gpus)
    rows, uneven = divmod(run.training.global_batch_size, dp)
    if uneven and not run.training.global_batch_tokens:
        return None
    most = max(1, _MOST_POSITIONS // run.data.seq_length)
    for size in (count for count in range(min(rows, most), 0, -1) if rows % count == 0):
        found = laid_out.with_values({"micro_batch_size": size, "use_distributed_optimizer": dp > 1})
        if _is_allowed(found, cluster) and fullest_rank(found, cluster).total <= cluster.usable_bytes:
            return found
    return None


def _is_allowed(run: RunConfig, cluster: Cluster) -> bool:
    try:
        check_run(run, cluster.gpus, planning=True)
    except ConfigError:
        return False
    return True
