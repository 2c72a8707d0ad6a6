"""Initial weights follow the published scheme and do not depend on the layout."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.helpers.distributed import run_ranks
from tests.helpers.models import build_stage
from tests.helpers.runs import TINY, tiny_run
from tests.helpers.shards import Shard, assemble, rank_shards


def drawn_shards(objective: str, overrides: dict[str, Any]) -> list[Shard]:
    return rank_shards(build_stage(tiny_run(objective, **overrides)))


@pytest.fixture(scope="module")
def one_rank() -> dict[str, np.ndarray]:
    return assemble(run_ranks(1, drawn_shards, "mlm", {}))


@pytest.mark.parametrize(
    ("world_size", "overrides"),
    [
        (2, {"tensor_model_parallel_size": 2}),
        (2, {"pipeline_model_parallel_size": 2}),
        (4, {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2}),
    ],
)
def test_same_weights_for_any_layout(
    world_size: int, overrides: dict[str, Any], one_rank: dict[str, np.ndarray]
) -> None:
    split = assemble(run_ranks(world_size, drawn_shards, "mlm", overrides))
    assert split.keys() == one_rank.keys()
    for name, expected in one_rank.items():
        np.testing.assert_array_equal(split[name], expected, err_msg=name)


def test_encoder_and_decoder_start_from_the_same_weights(one_rank: dict[str, np.ndarray]) -> None:
    decoder = assemble(run_ranks(1, drawn_shards, "clm", {}))
    for name, expected in one_rank.items():
        np.testing.assert_array_equal(decoder[name], expected, err_msg=name)


def test_names_and_shapes(one_rank: dict[str, np.ndarray]) -> None:
    hidden, ffn, vocab = TINY.hidden_size, TINY.ffn_hidden_size, TINY.vocab_size
    expected = {
        "embedding.word_embeddings.weight": (vocab, hidden),
        "embedding.norm.weight": (hidden,),
        "transformer.final_layernorm.weight": (hidden,),
        "head.dense.weight": (hidden, hidden),
        "head.norm.weight": (hidden,),
        "output_layer.bias": (vocab,),
    }
    for index in range(TINY.num_layers):
        layer = f"transformer.layers.{index}."
        if index > 0:
            expected[layer + "input_layernorm.weight"] = (hidden,)
        expected[layer + "self_attention.linear_qkv.weight"] = (3 * hidden, hidden)
        expected[layer + "self_attention.linear_proj.weight"] = (hidden, hidden)
        expected[layer + "pre_mlp_layernorm.weight"] = (hidden,)
        expected[layer + "mlp.linear_fc1.weight"] = (2 * ffn, hidden)
        expected[layer + "mlp.linear_fc2.weight"] = (hidden, ffn)
    assert {name: values.shape for name, values in one_rank.items()} == expected


def test_published_distribution(one_rank: dict[str, np.ndarray]) -> None:
    # Truncated at two standard deviations a normal has 0.8796 of its standard deviation (Johnson et al., 1994, 13.10).
    kept = 0.87962566
    for name, values in one_rank.items():
        if name.endswith("norm.weight"):
            np.testing.assert_array_equal(values, 1.0)
        elif name == "output_layer.bias":
            assert np.abs(values).max() <= 1 / math.sqrt(TINY.hidden_size)
            np.testing.assert_allclose(values.std(), 1 / math.sqrt(3 * TINY.hidden_size), rtol=0.15)
        else:
            residual = name.endswith(("linear_proj.weight", "linear_fc2.weight"))
            std = TINY.init_std / (math.sqrt(2 * TINY.num_layers) if residual else 1.0)
            assert np.abs(values).max() <= 2 * std * (1 + 1e-6)
            np.testing.assert_allclose(values.std(), kept * std, rtol=4 / math.sqrt(values.size))
            assert abs(values.mean()) < 4 * std / math.sqrt(values.size)
