"""Configs of small runs."""

from __future__ import annotations

from typing import Any

from megatron_ettin.config.model import ModelConfig
from megatron_ettin.config.run import RunConfig

TINY = ModelConfig(
    num_layers=4,
    hidden_size=64,
    ffn_hidden_size=96,
    num_attention_heads=4,
    vocab_size=128,
    sliding_window=16,
    rope_global_base=160_000.0,
    rope_local_base=10_000.0,
    attention_output_dropout=0.0,
    init_std=0.05,
)
"""Every feature in miniature: global and local layers, two RoPE bases, a window shorter than documents."""


def tiny_run(objective: str, *, model: ModelConfig = TINY, **overrides: Any) -> RunConfig:
    """Return the config of a run of the tiny model; ``overrides`` are fields of any section."""
    values = {"objective": objective, "device": "cpu", "seq_length": 64, "lr": 3e-3, "train_iters": 20, **overrides}
    return RunConfig(model=model).with_values(values)


def with_overrides(config: RunConfig, **overrides: Any) -> RunConfig:
    """Return ``config`` with fields replaced in whichever section has them."""
    return config.with_values(overrides)
