"""transformers' ModernBERT classes in the shape of a run, with random weights: what benchmarks compare with."""

from __future__ import annotations

import torch
from transformers import (
    ModernBertConfig,
    ModernBertDecoderConfig,
    ModernBertDecoderForCausalLM,
    ModernBertForMaskedLM,
)

from megatron_ettin.config.run import RunConfig


def build_peer(config: RunConfig, *, sparse: bool) -> torch.nn.Module:
    """Return the class of the run's objective, with sdpa; windows and RoPE bases are those the classes default to.

    Args:
        config: its shape and objective.
        sparse: whether an encoder's head runs on masked positions only.
    """
    model = config.model
    shape = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "max_position_embeddings": max(1024, config.data.seq_length),
        "local_attention": model.sliding_window,
        "attn_implementation": "sdpa",
    }
    if config.training.objective == "clm":
        return ModernBertDecoderForCausalLM(ModernBertDecoderConfig(**shape))
    return ModernBertForMaskedLM(ModernBertConfig(**shape, sparse_prediction=sparse))
