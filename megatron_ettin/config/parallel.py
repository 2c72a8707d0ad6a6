"""How a model is laid over ranks."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ettin.config.options import option


@dataclass(frozen=True)
class ParallelConfig:
    """Sizes of the parallel groups; the data-parallel size is what remains of the world."""

    tensor_model_parallel_size: int = option(1, "ranks that share each matrix", at_least=1)
    pipeline_model_parallel_size: int = option(
        1, "pipeline stages; they may hold different numbers of layers", at_least=1
    )
    sequence_parallel: bool = option(False, "split the norms' activations over the tensor-parallel ranks too")
    use_distributed_optimizer: bool = option(False, "shard optimizer state over the data-parallel ranks")
    context_parallel_size: int = option(1, "not supported; must be 1")
    num_layers_per_virtual_pipeline_stage: int = option(0, "interleaved pipeline; not supported, must be 0")
    use_torch_fsdp2: bool = option(False, "not supported")
    overlap_grad_reduce: bool = option(False, "sum gradients over the data-parallel ranks while backward goes on")
    overlap_param_gather: bool = option(
        False, "gather the distributed optimizer's weights while forward goes on; needs --overlap-grad-reduce"
    )
    timeout_seconds: float = option(
        600.0,
        "end the run, and name the rank, when one makes no progress or others wait for it for so long",
        metavar="SECONDS",
        above=0,
    )
    straggler_threshold: float = option(
        1.5,
        "tell of the slowest rank from so many times the median rank's work on; 0 does not compare ranks",
        metavar="RATIO",
        at_least=0,
    )


def data_parallel_size(parallel: ParallelConfig, world_size: int) -> int:
    """Return how many copies of the model train side by side; the world must be a multiple of one copy's ranks."""
    return world_size // (parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size)


def padded_vocab_size(vocab_size: int, tp: int) -> int:
    """Return the vocabulary rounded up so that every tensor-parallel rank holds a multiple of 8 rows."""
    multiple = 8 * tp
    return -(-vocab_size // multiple) * multiple


def stage_layers(num_layers: int, stages: int) -> tuple[int, ...]:
    """Return how many layers each pipeline stage holds.

    The stages differ by at most one layer. What is left over goes to the middle stages first, because the first stage
    also holds the embedding and the last one the head.

    >>> stage_layers(7, 2), stage_layers(22, 4)
    ((4, 3), (5, 6, 6, 5))
    """
    base, left_over = divmod(num_layers, stages)
    by_load = sorted(range(stages), key=lambda stage: (stage in (0, stages - 1), stage == stages - 1, stage))
    heavier = set(by_load[:left_over])
    return tuple(base + (stage in heavier) for stage in range(stages))
