"""Memory of a rank's tensors in training, in closed form.

Parameters, gradients and optimizer state are exact. Activations are those that the PyTorch layers store for backward,
with full rows; allocator, communication buffers and libraries come on top.

Letters: H hidden size, I size of each half of the gated MLP, V vocabulary rows of a rank, T positions of a micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ettin.config.backend import LOGITS_CHUNK_BYTES
from megatron_ettin.config.layer_pattern import LayerAttention, layer_pattern
from megatron_ettin.config.objectives import OBJECTIVES, mask_kind_of
from megatron_ettin.config.parallel import data_parallel_size, padded_vocab_size, stage_layers
from megatron_ettin.config.run import RunConfig
from megatron_ettin.planning.model_size import count_rank_matrices, count_rank_norms, count_rank_parameters

_FP32_BYTES = 4
_SMALLEST_BAND = 16
"""Minimum number of queries in a block of a local layer."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one rank by purpose."""

    parameters: int
    gradients: int
    optimizer_state: int
    activations: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return self.parameters + self.gradients + self.optimizer_state + self.activations


def estimate_memory(config: RunConfig, world_size: int) -> tuple[MemoryEstimate, ...]:
    """Return the estimate for a rank of each pipeline stage; the vocabulary size must be resolved.

    Gradients accumulate in fp32.
    """
    dp = data_parallel_size(config.parallel, world_size)
    counts = count_rank_parameters(config.model, config.parallel)
    norms = count_rank_norms(config.model, config.parallel)
    return tuple(
        MemoryEstimate(
            parameters=(count - norms[stage]) * _value_bytes(config) + norms[stage] * _residual_bytes(config),
            gradients=count * _FP32_BYTES,
            optimizer_state=_optimizer_state(config, dp, stage, count),
            activations=_stage_activations(config, dp, stage),
        )
        for stage, count in enumerate(counts)
    )


def _optimizer_state(config: RunConfig, dp: int, stage: int, count: int) -> int:
    """Return the bytes of optimizer state of a rank with ``count`` parameters.

    AdamW and StableAdamW have two fp32 moments, Muon one for each matrix that it updates, and all an fp32 master copy
    under bf16; the distributed optimizer shards these over the data-parallel ranks.
    """
    values = 2 * count
    if config.training.bf16:
        values += count
    if config.training.widens_residual:
        values -= count_rank_norms(config.model, config.parallel)[stage]  # fp32 already
    if config.optimizer.optimizer == "muon":
        values -= count_rank_matrices(config.model, config.parallel)[stage]
    shards = dp if config.parallel.use_distributed_optimizer else 1
    return -(-values * _FP32_BYTES // shards)


def _stage_activations(config: RunConfig, dp: int, stage: int) -> int:
    """Return the peak activation bytes of a stage: under 1F1B stage s of S has S - s micro-batches in flight."""
    stages = config.parallel.pipeline_model_parallel_size
    positions = config.training.micro_batch_tokens or config.training.micro_batch_size * config.data.seq_length
    in_flight = min(stages - stage, micro_batches_per_step(config, dp))
    counts = stage_layers(config.model.num_layers, stages)
    first = sum(counts[:stage])
    layers = layer_pattern(config.model, mask_kind_of(config.training.objective))[first : first + counts[stage]]
    kept = positions * sum(_kept_bytes(config, layer, index) for index, layer in enumerate(layers))
    kept += positions * _band_bytes(config, layers)
    if stage == 0:
        kept += positions * config.model.hidden_size * _residual_bytes(config) // _sequence_shards(config)
    head = _head_bytes(config, positions) if stage == stages - 1 else 0
    # Recomputed activations exist for one layer at a time, after those of the head are freed.
    recomputed = positions * max(
        _layer_bytes(config, layer) - _kept_bytes(config, layer, i) for i, layer in enumerate(layers)
    )
    return in_flight * kept + max(head, recomputed)


def micro_batches_per_step(config: RunConfig, dp: int) -> int:
    """Return the micro-batches of a data-parallel rank in a step of full size with full rows."""
    training, row = config.training, config.data.seq_length
    step = training.global_batch_tokens or training.global_batch_size * row
    micro = training.micro_batch_tokens or training.micro_batch_size * row
    return -(-step // (micro * dp))


def _kept_bytes(config: RunConfig, layer: LayerAttention, index: int) -> int:
    """Return the bytes that a layer stores per position until its backward pass starts."""
    backend, value = config.backend, _value_bytes(config)
    if backend.recompute_granularity == "full" and index < (backend.recompute_num_layers or index + 1):
        return config.model.hidden_size * _residual_bytes(config) // _sequence_shards(config)
    every = _layer_bytes(config, layer)
    if backend.recompute_granularity == "selective":
        return every - 4 * config.model.ffn_hidden_size * value // config.parallel.tensor_model_parallel_size
    return every


def _layer_bytes(config: RunConfig, layer: LayerAttention) -> int:
    """Return the bytes of a layer's activations per position.

    Split by sequence parallelism only, 5H: input and output of both norms, and the dropout mask. Split by tensor
    parallelism, in a global layer 7H: query, key and value as projected, the first two rotated, the output by chunk and
    joined; in a local layer 2H, query and output, and 2H for each block of keys and values that a block of queries
    sees; in the MLP 4I: both halves, the first activated, and the product.
    """
    hidden, ffn, value = config.model.hidden_size, config.model.ffn_hidden_size, _value_bytes(config)
    attention = 7 if layer.window is None else 2 + 2 * _key_blocks(layer.window)
    split = (attention * hidden + 4 * ffn) * value // config.parallel.tensor_model_parallel_size
    unsplit = (2 * _residual_bytes(config) + 3 * value) * hidden
    return unsplit // _sequence_shards(config) + split


def _band_bytes(config: RunConfig, layers: tuple[LayerAttention, ...]) -> int:
    """Return the bytes per position of the mask that the local layers share."""
    windows = {layer.window for layer in layers if layer.window is not None}
    return sum(_key_blocks(window) * max(*window, _SMALLEST_BAND) * _value_bytes(config) for window in windows)


def _key_blocks(window: tuple[int, int]) -> int:
    """Return the blocks of keys that a block of queries sees: its own and one on each side of the window."""
    return 1 + (window[0] > 0) + (window[1] > 0)


def _head_bytes(config: RunConfig, positions: int) -> int:
    """Return the bytes of final norm, head and loss of one micro-batch.

    The final norm stores its input, H. Head and output layer run on scored positions only and store 3H: the inputs of
    dense, GELU and norm. The loss stores gradients instead of logits: H for each scored position and, in fp32, those
    of the output matrix and its bias. On top come the logits of one chunk, and in half precision their gradient.
    """
    hidden, tp, value = config.model.hidden_size, config.parallel.tensor_model_parallel_size, _value_bytes(config)
    hides_tokens = OBJECTIVES[config.training.objective].hides_tokens
    scored = round(positions * (config.data.largest_mask_ratio if hides_tokens else 1.0))
    vocabulary_rows = padded_vocab_size(config.model.vocab_size, tp) // tp
    chunk = min(
        scored * vocabulary_rows * value, LOGITS_CHUNK_BYTES["cpu" if config.training.device == "cpu" else "cuda"]
    )
    gradients = scored * hidden * value + vocabulary_rows * (hidden + 1) * _FP32_BYTES
    residual = _residual_bytes(config)
    kept = positions * hidden * residual // _sequence_shards(config) + scored * hidden * (2 * value + residual)
    return kept + gradients + (2 * chunk if config.training.bf16 else chunk)


def _value_bytes(config: RunConfig) -> int:
    return 2 if config.training.bf16 else _FP32_BYTES


def _residual_bytes(config: RunConfig) -> int:
    """Return the bytes of a value of the residual stream, of norm inputs and of norm weights."""
    return _FP32_BYTES if config.training.widens_residual else _value_bytes(config)


def _sequence_shards(config: RunConfig) -> int:
    return config.parallel.tensor_model_parallel_size if config.parallel.sequence_parallel else 1
