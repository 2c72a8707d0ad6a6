"""Transformer Engine's modules in megatron-core's wrappers, adapted: norms without bias, a window for each layer.

Importing this file needs Transformer Engine.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from megatron.core.dist_checkpointing.mapping import ShardedStateDict
from megatron.core.extensions.transformer_engine import TEDotProductAttention, TELayerNormColumnParallelLinear
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_ettin.config.layer_pattern import LayerAttention
from megatron_ettin.config.objectives import MaskKind
from megatron_ettin.model.attention import PackedDotProductAttention


class NormedColumnParallelLinear(TELayerNormColumnParallelLinear):
    """LayerNorm without bias and the column-parallel matrix that follows, as one module.

    Transformer Engine's LayerNorm always has a bias: it stays zero, is not trained, and is not in checkpoints.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Build the module with megatron-core's arguments and freeze the bias."""
        super().__init__(*args, **kwargs)
        self.layer_norm_bias.requires_grad_(False)
        self.layer_norm_bias.data.zero_()

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> ShardedStateDict:
        """Return the parameters as megatron-core saves them, without the bias."""
        entries = super().sharded_state_dict(prefix, sharded_offsets, metadata)
        entries.pop(f"{prefix}layer_norm_bias")
        return entries


def engine_attention(attention: LayerAttention, mask_kind: MaskKind) -> Callable[..., Any]:
    """Return the builder of a layer's core attention.

    Transformer Engine's own kernels support packed chunks with windows to the left only. Two-sided windows it leaves to
    the flash-attn package; without that it would compute the full matrix, so PyTorch's flash kernel is used instead.
    """
    two_sided = mask_kind == "bidirectional" and attention.window is not None
    if two_sided and find_spec("flash_attn") is None:
        return partial(PackedDotProductAttention, window=attention.window)
    return partial(_windowed, attention.window)


def _windowed(window: tuple[int, int] | None, *, config: TransformerConfig, **kwargs: Any) -> TEDotProductAttention:
    """Build Transformer Engine's attention with a layer's window, which megatron-core reads from its config."""
    layer_config = copy.copy(config)
    layer_config.window_size = window
    layer_config.window_attn_skip_freq = None
    return TEDotProductAttention(config=layer_config, **kwargs)
