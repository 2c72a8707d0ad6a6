"""How much memory a rank needs for the tensors of training, in closed form.

Parameters, gradients and optimizer state are exact. Activations are those that backward keeps in the layers built from
PyTorch, for rows that are full; the allocator, communication buffers and the libraries themselves come on top.

Letters: H hidden size, I size of each half of the gated MLP, V vocabulary rows of a rank, T positions of a micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ettin.config.attention import LayerAttention, MaskKind, layer_pattern
from megatron_ettin.config.parallel import data_parallel_size, padded_vocab_size, stage_layers
from megatron_ettin.config.parameters import count_rank_matrices, count_rank_parameters
from megatron_ettin.config.run import RunConfig

_FP32_BYTES = 4
_SMALLEST_BAND = 16
"""Queries of a block of a local layer, at least."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one rank by what they hold."""

    parameters: int
    gradients: int
    optimizer_state: int
    activations: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.parameters + self.gradients + self.optimizer_state + self.activations


def estimate_memory(run: RunConfig, world_size: int, mask_kind: MaskKind) -> tuple[MemoryEstimate, ...]:
    """Return the estimate for a rank of each pipeline stage; the vocabulary must be resolved.

    Gradients are summed in fp32.
    """
    dp = data_parallel_size(run.parallel, world_size)
    return tuple(
        MemoryEstimate(
            parameters=count * _value_bytes(run),
            gradients=count * _FP32_BYTES,
            optimizer_state=_optimizer_state(run, dp, stage, count),
            activations=_stage_activations(run, dp, mask_kind, stage),
        )
        for stage, count in enumerate(count_rank_parameters(run.model, run.parallel))
    )


def _optimizer_state(run: RunConfig, dp: int, stage: int, count: int) -> int:
    """Optimizer state of a rank of a stage that holds ``count`` parameters.

    AdamW and StableAdamW keep two fp32 moments, Muon one of the matrices it steps, and all an fp32 master copy under
    bf16; the distributed optimizer spreads these over the data-parallel ranks.
    """
    values = count * (3 if run.training.bf16 else 2)
    if run.optimizer.optimizer == "muon":
        values -= count_rank_matrices(run.model, run.parallel)[stage]
    shards = dp if run.parallel.use_distributed_optimizer else 1
    return -(-values * _FP32_BYTES // shards)


def _stage_activations(run: RunConfig, dp: int, mask_kind: MaskKind, stage: int) -> int:
    """Activations of a stage at its fullest: in the 1F1B schedule stage s of S holds S - s micro-batches at once."""
    stages = run.parallel.pipeline_model_parallel_size
    positions = run.training.micro_batch_size * run.data.seq_length
    in_flight = min(stages - stage, run.training.global_batch_size // (run.training.micro_batch_size * dp))
    counts = stage_layers(run.model.num_layers, stages)
    first = sum(counts[:stage])
    layers = layer_pattern(run.model, mask_kind)[first : first + counts[stage]]
    kept = positions * sum(_layer_bytes(run, layer) for layer in layers)
    kept += positions * _band_bytes(run, layers)
    if stage == 0:
        kept += positions * run.model.hidden_size * _value_bytes(run) // _sequence_shards(run)
    head = _head_bytes(run, positions, mask_kind) if stage == stages - 1 else 0
    return in_flight * kept + head


def _layer_bytes(run: RunConfig, layer: LayerAttention) -> int:
    """Bytes that one layer keeps for one position.

    Split by sequence parallelism only, 5H: input and output of both norms, and the dropout mask. Split by tensor
    parallelism, in a global layer 7H: query, key and value as projected, the first two rotated, the output by piece and
    joined; in a local layer 2H, query and output, and 2H for each block of keys and values that a block of queries
    sees; in the MLP 5I: both halves, the first activated, the second as core hands it on, their product.
    """
    hidden, ffn, value = run.model.hidden_size, run.model.ffn_hidden_size, _value_bytes(run)
    attention = 7 if layer.window is None else 2 + 2 * _key_blocks(layer.window)
    split = (attention * hidden + 5 * ffn) * value // run.parallel.tensor_model_parallel_size
    return 5 * hidden * value // _sequence_shards(run) + split


def _band_bytes(run: RunConfig, layers: tuple[LayerAttention, ...]) -> int:
    """Bytes of a position's row in the mask of the local layers, which share it."""
    windows = {layer.window for layer in layers if layer.window is not None}
    return sum(_key_blocks(window) * max(*window, _SMALLEST_BAND) * _value_bytes(run) for window in windows)


def _key_blocks(window: tuple[int, int]) -> int:
    """How many blocks of keys a block of queries sees: its own and one to each side that the window reaches."""
    return 1 + (window[0] > 0) + (window[1] > 0)


def _head_bytes(run: RunConfig, positions: int, mask_kind: MaskKind) -> int:
    """Bytes of final norm, head and loss of one micro-batch.

    The final norm keeps its input, H. Head and output layer run on scored positions only and keep 4H and the logits in
    fp32, whose memory the loss uses again; under bf16 the logits or their gradient in bf16 come on top.
    """
    hidden, tp, value = run.model.hidden_size, run.parallel.tensor_model_parallel_size, _value_bytes(run)
    scored = round(positions * (run.data.mlm_probability if mask_kind == "bidirectional" else 1.0))
    vocabulary_rows = padded_vocab_size(run.model.vocab_size, tp) // tp
    per_logit = _FP32_BYTES + (value if run.training.bf16 else 0)
    per_scored = 4 * hidden * value + vocabulary_rows * per_logit
    return positions * hidden * value // _sequence_shards(run) + scored * per_scored


def _value_bytes(run: RunConfig) -> int:
    return 2 if run.training.bf16 else _FP32_BYTES


def _sequence_shards(run: RunConfig) -> int:
    return run.parallel.tensor_model_parallel_size if run.parallel.sequence_parallel else 1
