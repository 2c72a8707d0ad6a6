"""transformers' ModernBERT classes with random weights in the shape of a run, as the peers of the benchmarks."""

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
    """Return a model of the objective's class, with sdpa and the class's default windows and RoPE bases.

    Args:
        config: the shape and the objective.
        sparse: whether an encoder's head is computed for masked positions only.
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
