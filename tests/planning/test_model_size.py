"""Parameter counts against the published table and built models; operations against counting them one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megatron_ettin.config.layer_pattern import layer_pattern
from megatron_ettin.config.model import ModelConfig
from megatron_ettin.config.presets import preset_values
from megatron_ettin.config.run import RunConfig
from megatron_ettin.planning.model_size import (
    count_parameters,
    count_rank_parameters,
    seen_pairs,
    training_flops,
)
from tests.helpers.distributed import run_ranks
from tests.helpers.models import build_stage
from tests.helpers.runs import TINY, tiny_run

PUBLISHED = {
    "ettin-17m": 16_913_600,
    "ettin-32m": 32_081_344,
    "ettin-68m": 68_457_664,
    "ettin-150m": 149_655_232,
    "ettin-400m": 395_881_664,
    "ettin-1b": 1_031_314_112,
}


def preset_model(name: str) -> ModelConfig:
    return RunConfig().with_values(preset_values(name, "mlm", "pretrain")).model


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_equal_the_published_table(name: str) -> None:
    assert count_parameters(preset_model(name)).total == PUBLISHED[name]


def test_nano_has_two_million_parameters() -> None:
    model = replace(preset_model("nano"), vocab_size=4096)
    assert 1.9e6 < count_parameters(model).total < 2.2e6


def test_parts_of_a_model_counted_by_hand() -> None:
    parts = count_parameters(ModelConfig(2, 8, 16, 2, vocab_size=10))
    assert parts.embedding == 80
    assert parts.attention == 2 * (3 * 64 + 64)
    assert parts.mlp == 2 * (2 * 16 * 8 + 16 * 8)
    assert parts.norms == 5 * 8  # embedding, MLP of layer 0, attention and MLP of layer 1, final
    assert parts.head == 64 + 8
    assert parts.output_bias == 10
    assert parts.output_matrix == 0
    untied = count_parameters(ModelConfig(2, 8, 16, 2, vocab_size=10, untie_embeddings_and_output_weights=True))
    assert untied.total == parts.total + 80


@pytest.mark.parametrize("name", PUBLISHED)
def test_one_rank_has_all_parameters(name: str) -> None:
    model = preset_model(name)
    assert count_rank_parameters(model, tiny_run("mlm").parallel) == (PUBLISHED[name],)


def uneven_model(vocab_size: int, untied: bool) -> ModelConfig:
    return replace(TINY, num_layers=5, vocab_size=vocab_size, untie_embeddings_and_output_weights=untied)


def built_parameters(tp: int, pp: int, model: ModelConfig) -> int:
    """Build this rank's part of a model and count its parameters."""
    config = tiny_run("mlm", model=model, tensor_model_parallel_size=tp, pipeline_model_parallel_size=pp)
    return sum(parameter.numel() for parameter in build_stage(config).parameters())


@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize(("tp", "pp", "vocab_size"), [(1, 1, 100), (2, 1, 100), (1, 2, 128), (2, 2, 100)])
def test_rank_counts_equal_built_models(tp: int, pp: int, vocab_size: int, untied: bool) -> None:
    model = uneven_model(vocab_size, untied)
    built = run_ranks(tp * pp, built_parameters, tp, pp, model)
    config = tiny_run("mlm", tensor_model_parallel_size=tp, pipeline_model_parallel_size=pp)
    by_stage = count_rank_parameters(model, config.parallel)
    # Ranks are numbered tensor-parallel first.
    assert built == [by_stage[rank // tp] for rank in range(tp * pp)]


@pytest.mark.parametrize("mask_kind", ["bidirectional", "causal"])
@pytest.mark.parametrize("window", [None, (0, 0), (2, 2), (3, 0), (64, 64)])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 130])
def test_seen_pairs_equal_a_count(length, window, mask_kind) -> None:  # type: ignore[no-untyped-def]
    left, right = window or (length, length)
    right = 0 if mask_kind == "causal" else right
    counted = sum(-left <= key - query <= right for query in range(length) for key in range(length))
    assert seen_pairs(length, window, mask_kind) == counted


@pytest.mark.parametrize(("mask_kind", "scored"), [("bidirectional", 10), ("causal", 31)])
def test_training_flops_equal_the_sum_over_all_products(mask_kind, scored) -> None:  # type: ignore[no-untyped-def]
    lengths, hidden, ffn = [20, 12], TINY.hidden_size, TINY.ffn_hidden_size
    tokens = sum(lengths)
    forward = 2 * tokens * TINY.num_layers * (hidden * 3 * hidden + hidden * hidden + hidden * 2 * ffn + ffn * hidden)
    forward += 2 * scored * (hidden * hidden + hidden * TINY.vocab_size)
    for layer in layer_pattern(TINY, mask_kind):
        pairs = sum(seen_pairs(length, layer.window, mask_kind) for length in lengths)
        per_head = hidden // TINY.num_attention_heads
        forward += TINY.num_attention_heads * pairs * (2 * per_head + 2 * per_head)
    assert training_flops(TINY, mask_kind, lengths, scored) == 3 * forward


def test_training_takes_six_operations_per_weight() -> None:
    shape = ModelConfig(num_layers=22, hidden_size=768, ffn_hidden_size=1152, num_attention_heads=12, vocab_size=50_368)
    one = training_flops(replace(shape, sliding_window=2), "causal", [1], 1)
    weights = 22 * (4 * 768**2 + 3 * 768 * 1152) + 768**2 + 768 * 50_368
    assert one == 6 * weights + 22 * 12 * 768
