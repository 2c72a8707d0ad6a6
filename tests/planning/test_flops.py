"""Operations of training against counting them one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megatron_ettin.config.layer_pattern import layer_pattern
from megatron_ettin.config.model import ModelConfig
from megatron_ettin.planning.model_size import seen_pairs, training_flops
from tests.helpers.runs import TINY


@pytest.mark.parametrize("mask_kind", ["bidirectional", "causal"])
@pytest.mark.parametrize("window", [None, (0, 0), (2, 2), (3, 0), (64, 64)])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 130])
def test_pairs_are_those_one_can_count(length, window, mask_kind) -> None:  # type: ignore[no-untyped-def]
    left, right = window or (length, length)
    right = 0 if mask_kind == "causal" else right
    counted = sum(-left <= key - query <= right for query in range(length) for key in range(length))
    assert seen_pairs(length, window, mask_kind) == counted


@pytest.mark.parametrize(("mask_kind", "scored"), [("bidirectional", 10), ("causal", 31)])
def test_equals_the_sum_over_all_products(mask_kind, scored) -> None:  # type: ignore[no-untyped-def]
    lengths, hidden, ffn = [20, 12], TINY.hidden_size, TINY.ffn_hidden_size
    tokens = sum(lengths)
    forward = 2 * tokens * TINY.num_layers * (hidden * 3 * hidden + hidden * hidden + hidden * 2 * ffn + ffn * hidden)
    forward += 2 * scored * (hidden * hidden + hidden * TINY.vocab_size)
    for layer in layer_pattern(TINY, mask_kind):
        pairs = sum(seen_pairs(length, layer.window, mask_kind) for length in lengths)
        per_head = hidden // TINY.num_attention_heads
        forward += TINY.num_attention_heads * pairs * (2 * per_head + 2 * per_head)
    assert training_flops(TINY, mask_kind, lengths, scored) == 3 * forward


def test_published_shape_costs_six_operations_a_weight() -> None:
    shape = ModelConfig(num_layers=22, hidden_size=768, ffn_hidden_size=1152, num_attention_heads=12, vocab_size=50_368)
    one = training_flops(replace(shape, sliding_window=2), "causal", [1], 1)
    weights = 22 * (4 * 768**2 + 3 * 768 * 1152) + 768**2 + 768 * 50_368
    assert one == 6 * weights + 22 * 12 * 768
