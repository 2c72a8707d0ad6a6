"""Attention windows, layer kinds and RoPE bases of all layers: the only place where they are decided.

Training, conversion, the reference forward pass and the tests read the pattern from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from megatron_ettin.config.model import ModelConfig
from megatron_ettin.config.objectives import MaskKind

LayerKind = Literal["global", "local"]


@dataclass(frozen=True)
class LayerAttention:
    """Attention of one layer."""

    kind: LayerKind
    window: tuple[int, int] | None
    """Keys visible to the (left, right) of a position, itself excluded; None is no limit (global layers).
    A causal mask applies on top, so a causal window always has 0 on the right."""
    rope_base: float


def local_window(sliding_window: int, mask_kind: MaskKind, causal_window: str) -> tuple[int, int]:
    """Return the number of keys to the (left, right) of a position that a local layer sees.

    transformers' ``local_attention`` is the full width: with 128 an encoder sees 64 to each side. Its decoder class
    counts the position itself among the 64, hence 63 previous ones; the authors' trainer (flash attention with a
    causal mask and window 64, 64) let a decoder see 64 previous ones.
    """
    half = sliding_window // 2
    if mask_kind == "bidirectional":
        return half, half
    return (half if causal_window == "authors" else half - 1), 0


def layer_pattern(model: ModelConfig, mask_kind: MaskKind) -> tuple[LayerAttention, ...]:
    """Return the attention of every layer, first to last (0-based; layer 0 is global)."""
    window = local_window(model.sliding_window, mask_kind, model.causal_window)
    global_layer = LayerAttention("global", None, model.rope_global_base)
    local_layer = LayerAttention("local", window, model.rope_local_base)
    return tuple(local_layer if i % model.global_attention_every else global_layer for i in range(model.num_layers))
