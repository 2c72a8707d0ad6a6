"""Parameters and floating-point operations of a model, in closed form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from megatron_ettin.config.layer_pattern import layer_pattern
from megatron_ettin.config.model import ModelConfig
from megatron_ettin.config.objectives import MaskKind
from megatron_ettin.config.parallel import ParallelConfig, padded_vocab_size, stage_layers


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a model by part."""

    embedding: int
    """Also the output matrix where the two are tied."""
    attention: int
    mlp: int
    norms: int
    """After the embedding, before attention (except in the first layer) and MLP of each layer, and after the last."""
    head: int
    """Dense matrix and norm."""
    output_bias: int
    output_matrix: int
    """0 where it is the embedding."""

    @property
    def total(self) -> int:
        """Sum of all parts; the tied matrix counts once."""
        layers = self.attention + self.mlp + self.norms
        return self.embedding + layers + self.head + self.output_bias + self.output_matrix


def count_parameters(model: ModelConfig) -> ParameterCount:
    """Count the parameters of a model, whose vocabulary size must be resolved."""
    assert model.vocab_size > 0
    hidden, layers = model.hidden_size, model.num_layers
    return ParameterCount(
        embedding=model.vocab_size * hidden,
        attention=layers * _attention_weights(model),
        mlp=layers * _mlp_weights(model),
        norms=(2 * layers + 1) * hidden,
        head=_head_weights(model),
        output_bias=model.vocab_size,
        output_matrix=model.vocab_size * hidden if model.untie_embeddings_and_output_weights else 0,
    )


def count_rank_parameters(model: ModelConfig, parallel: ParallelConfig) -> tuple[int, ...]:
    """Count the parameters of one rank of each pipeline stage.

    Tensor parallelism splits the matrices of the layers and the vocabulary (padded to 8 rows per rank); norms and head
    are replicated. With several stages the last one has a second copy of the tied matrix; an untied output matrix is
    always on the last stage.
    """
    tp, stages = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    hidden = model.hidden_size
    vocabulary_rows = padded_vocab_size(model.vocab_size, tp) // tp
    split_per_layer = (_attention_weights(model) + _mlp_weights(model)) // tp
    counts = [layers * (split_per_layer + 2 * hidden) for layers in stage_layers(model.num_layers, stages)]
    # The embedding's norm makes up for the norm before attention that the first layer lacks.
    counts[0] += vocabulary_rows * hidden
    counts[-1] += hidden + _head_weights(model) + vocabulary_rows
    if stages > 1 or model.untie_embeddings_and_output_weights:
        counts[-1] += vocabulary_rows * hidden
    return tuple(counts)


def count_rank_matrices(model: ModelConfig, parallel: ParallelConfig) -> tuple[int, ...]:
    """Count the part of :func:`count_rank_parameters` in matrices other than embedding and output."""
    split_per_layer = (_attention_weights(model) + _mlp_weights(model)) // parallel.tensor_model_parallel_size
    counts = [
        layers * split_per_layer for layers in stage_layers(model.num_layers, parallel.pipeline_model_parallel_size)
    ]
    counts[-1] += model.hidden_size**2
    return tuple(counts)


def count_rank_norms(model: ModelConfig, parallel: ParallelConfig) -> tuple[int, ...]:
    """Count the part of :func:`count_rank_parameters` in norms."""
    hidden = model.hidden_size
    counts = [2 * layers * hidden for layers in stage_layers(model.num_layers, parallel.pipeline_model_parallel_size)]
    counts[-1] += 2 * hidden
    return tuple(counts)


def _attention_weights(model: ModelConfig) -> int:
    return 4 * model.hidden_size**2


def _mlp_weights(model: ModelConfig) -> int:
    return 3 * model.hidden_size * model.ffn_hidden_size


def _head_weights(model: ModelConfig) -> int:
    return model.hidden_size**2 + model.hidden_size


_FORWARD_AND_BACKWARD = 3


def training_flops(model: ModelConfig, mask_kind: MaskKind, lengths: Iterable[int], scored_tokens: int) -> int:
    """Return the floating-point operations of one forward and backward pass.

    Args:
        model: the shape, with its vocabulary size resolved.
        mask_kind: the attention mask.
        lengths: tokens of each chunk; attention does not cross chunks.
        scored_tokens: positions whose logits are computed.
    """
    chunks = list(lengths)
    hidden = model.hidden_size
    layer_weights = _attention_weights(model) + _mlp_weights(model)
    head_weights = hidden * hidden + hidden * model.vocab_size
    products = 2 * (sum(chunks) * model.num_layers * layer_weights + scored_tokens * head_weights)
    windows = [layer.window for layer in layer_pattern(model, mask_kind)]
    pairs_of = {window: sum(seen_pairs(n, window, mask_kind) for n in chunks) for window in set(windows)}
    attention = 4 * hidden * sum(pairs_of[window] for window in windows)
    return _FORWARD_AND_BACKWARD * (products + attention)


def seen_pairs(length: int, window: tuple[int, int] | None, mask_kind: MaskKind) -> int:
    """Return the number of (query, key) pairs that a mask and a window allow in a chunk.

    >>> seen_pairs(4, None, "bidirectional"), seen_pairs(4, None, "causal"), seen_pairs(4, (1, 1), "bidirectional")
    (16, 10, 10)
    """
    left, right = window or (length, length)
    if mask_kind == "causal":
        right = 0
    return length + _reached(length, left) + _reached(length, right)


def _reached(length: int, reach: int) -> int:
    """Return the sum over all positions of the neighbours within ``reach`` on one side."""
    reach = min(reach, length - 1)
    return reach * (reach + 1) // 2 + (length - 1 - reach) * reach
