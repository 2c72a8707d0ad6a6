"""Attention windows, layer kinds and RoPE bases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megatron_ettin.config.layer_pattern import LayerAttention, layer_pattern, local_window
from megatron_ettin.config.model import ModelConfig


@pytest.mark.parametrize(
    ("mask_kind", "causal_window", "expected"),
    [
        ("bidirectional", "transformers", (64, 64)),
        ("bidirectional", "authors", (64, 64)),
        ("causal", "transformers", (63, 0)),
        ("causal", "authors", (64, 0)),
    ],
)
def test_window_of_128(mask_kind: str, causal_window: str, expected: tuple[int, int]) -> None:
    assert local_window(128, mask_kind, causal_window) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(("layers", "global_layers"), [(7, [0, 3, 6]), (10, [0, 3, 6, 9]), (28, [*range(0, 28, 3)])])
def test_every_third_layer_is_global_from_the_first(layers: int, global_layers: list[int]) -> None:
    pattern = layer_pattern(ModelConfig(num_layers=layers), "bidirectional")
    assert len(pattern) == layers
    assert [index for index, layer in enumerate(pattern) if layer.kind == "global"] == global_layers
    assert pattern[-1].kind == "global"


def test_each_kind_of_layer_has_its_window_and_base() -> None:
    model = ModelConfig(rope_global_base=160_000.0, rope_local_base=10_000.0)
    nearby = LayerAttention("local", (63, 0), 10_000.0)
    assert layer_pattern(model, "causal")[:4] == (
        LayerAttention("global", None, 160_000.0),
        nearby,
        nearby,
        LayerAttention("global", None, 160_000.0),
    )


def test_pattern_of_one_is_global_everywhere() -> None:
    pattern = layer_pattern(replace(ModelConfig(), global_attention_every=1), "causal")
    assert {layer.window for layer in pattern} == {None}
