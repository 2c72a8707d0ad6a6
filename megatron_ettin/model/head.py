"""Prediction head and output layer, the same for encoder and decoder.

Shapes: K scored positions, H hidden, V vocabulary rows of this tensor-parallel rank.
"""

from __future__ import annotations

import copy

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import ColumnParallelLinear
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn
from torch.nn import functional as F

from megatron_ettin.model.fused import fused
from megatron_ettin.model.norm import BiasFreeLayerNorm


class PredictionHead(MegatronModule):
    """Dense, exact GELU, norm; whole on every tensor-parallel rank (it is small and sees scored positions only)."""

    def __init__(self, config: TransformerConfig) -> None:
        """Create the dense matrix and the norm, which see all scored tokens on every rank."""
        super().__init__(config=config)
        whole = for_whole_activations(config)
        size = config.hidden_size
        device = torch.cuda.current_device()
        self.dense = nn.Linear(size, size, bias=False, device=device, dtype=config.params_dtype)
        self.norm = BiasFreeLayerNorm(whole, size, config.layernorm_epsilon)

    def forward(self, hidden_KH: Tensor) -> Tensor:
        """Return [K, H]."""
        return activate_and_normalize(self.dense(hidden_KH), self.norm.weight, self.norm.eps)


@fused
def activate_and_normalize(hidden_KH: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Exact GELU, then the head's norm."""
    return F.layer_norm(F.gelu(hidden_KH), weight.shape, weight, None, eps)


def build_output_layer(
    config: TransformerConfig, vocab_size: int, groups: ProcessGroupCollection, *, weight_elsewhere: bool
) -> ColumnParallelLinear:
    """Build the vocabulary-parallel output matrix with its bias.

    Args:
        config: megatron-core's config.
        vocab_size: rows over all ranks, padded.
        groups: process groups.
        weight_elsewhere: weights are tied and this stage holds the embedding, whose matrix is handed in at each call.
    """
    return ColumnParallelLinear(
        config.hidden_size,
        vocab_size,
        config=for_whole_activations(config),
        init_method=config.embedding_init_method,
        bias=True,
        skip_weight_param_allocation=weight_elsewhere,
        tp_group=groups.tp,
    )


def for_whole_activations(config: TransformerConfig) -> TransformerConfig:
    """Return a config for modules after the sequence was gathered, which are PyTorch's whatever layers are from."""
    whole = copy.copy(config)
    whole.sequence_parallel = False
    whole.gradient_accumulation_fusion = False
    return whole
