"""How a model is distributed over ranks."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ettin.config.options import option, unsupported


@dataclass(frozen=True)
class ParallelConfig:
    """Sizes of the parallel groups; the data-parallel size follows from the world size."""

    tensor_model_parallel_size: int = option(1, "ranks that each matrix is split over", at_least=1)
    pipeline_model_parallel_size: int = option(1, "pipeline stages; they may differ by one layer", at_least=1)
    sequence_parallel: bool = option(False, "split the norms' activations over the tensor-parallel ranks too")
    use_distributed_optimizer: bool = option(False, "shard optimizer state over the data-parallel ranks")
    context_parallel_size: int = unsupported(1, "context parallelism", "leave it at 1")
    num_layers_per_virtual_pipeline_stage: int = unsupported(0, "the interleaved pipeline", "leave it at 0")
    use_torch_fsdp2: bool = unsupported(False, "FSDP", "--use-distributed-optimizer shards optimizer state")
    overlap_grad_reduce: bool = option(False, "reduce gradients over the data-parallel ranks during backward")
    overlap_param_gather: bool = option(
        False, "gather the distributed optimizer's weights during forward; needs --overlap-grad-reduce"
    )
    timeout_seconds: float = option(
        600.0,
        "end the run and name the rank when one makes no progress, or others wait for it, for this long",
        metavar="SECONDS",
        above=0,
    )
    straggler_threshold: float = option(
        1.5,
        "report the slowest rank when its work takes this many times the median rank's; 0 does not compare ranks",
        metavar="RATIO",
        at_least=0,
    )


def data_parallel_size(parallel: ParallelConfig, world_size: int) -> int:
    """Return the number of model replicas; ``world_size`` must be a multiple of one replica's ranks."""
    return world_size // (parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size)


def padded_vocab_size(vocab_size: int, tp: int) -> int:
    """Return the vocabulary size rounded up to a multiple of 8 rows on every tensor-parallel rank."""
    multiple = 8 * tp
    return -(-vocab_size // multiple) * multiple


def stage_layers(num_layers: int, stages: int) -> tuple[int, ...]:
    """Return the number of layers of each pipeline stage.

    Stages differ by at most one layer. The remainder goes to the middle stages first, because the first stage also
    has the embedding and the last one the head.

    >>> stage_layers(7, 2), stage_layers(22, 4)
    ((4, 3), (5, 6, 6, 5))
    """
    base, remainder = divmod(num_layers, stages)
    by_load = sorted(range(stages), key=lambda stage: (stage in (0, stages - 1), stage == stages - 1, stage))
    larger = set(by_load[:remainder])
    return tuple(base + (stage in larger) for stage in range(stages))
