"""Floating-point operations of training, counted as the objective defines the work.

A multiplication and an addition are two operations. Every weight that a token meets costs 2 forward and 4 backward; a
pair of positions that see each other costs 4 for each value of the hidden size forward (scores, then the weighted sum)
and twice that backward. Head and output matrix count at scored positions only, attention inside its window only, and
what a kernel computes beyond that (masked blocks, recomputed activations) not at all: it is the model's work, not the
machine's.
"""

from __future__ import annotations

from collections.abc import Iterable

from megatron_ettin.config.attention import MaskKind, layer_pattern
from megatron_ettin.config.model import ModelConfig

_FORWARD_AND_BACKWARD = 3


def training_flops(model: ModelConfig, mask_kind: MaskKind, lengths: Iterable[int], scored_tokens: int) -> int:
    """Return the operations of one forward and backward pass.

    Args:
        model: the shape, its vocabulary resolved.
        mask_kind: who sees whom.
        lengths: tokens of each piece; nothing sees beyond its piece.
        scored_tokens: positions whose logits are wanted.
    """
    pieces = list(lengths)
    hidden, ffn = model.hidden_size, model.ffn_hidden_size
    layer_weights = 4 * hidden * hidden + 3 * hidden * ffn
    head_weights = hidden * hidden + hidden * model.vocab_size
    products = 2 * (sum(pieces) * model.num_layers * layer_weights + scored_tokens * head_weights)
    windows = [layer.window for layer in layer_pattern(model, mask_kind)]
    pairs_of = {window: sum(seen_pairs(n, window, mask_kind) for n in pieces) for window in set(windows)}
    attention = 4 * hidden * sum(pairs_of[window] for window in windows)
    return _FORWARD_AND_BACKWARD * (products + attention)


def seen_pairs(length: int, window: tuple[int, int] | None, mask_kind: MaskKind) -> int:
    """Return how many (query, key) pairs of a piece see each other.

    >>> seen_pairs(4, None, "bidirectional"), seen_pairs(4, None, "causal"), seen_pairs(4, (1, 1), "bidirectional")
    (16, 10, 10)
    """
    left, right = window or (length, length)
    if mask_kind == "causal":
        right = 0
    return length + _reached(length, left) + _reached(length, right)


def _reached(length: int, reach: int) -> int:
    """Return the sum over all positions of how many neighbours lie within ``reach`` to one side."""
    reach = min(reach, length - 1)
    return reach * (reach + 1) // 2 + (length - 1 - reach) * reach
