"""The table of tensor names: complete in both formats, and lossless in both directions."""

from __future__ import annotations

import math

import pytest
import torch

from megatron_ettin.config.model import ModelConfig
from megatron_ettin.convert.tensor_names import TensorName, tensor_from_hf, tensor_names, tensor_to_hf
from tests.convert.samples import MODEL, OBJECTIVES, hf_model, random_tensors

PER_LAYER = {
    "self_attention.linear_qkv.weight": (192, 64),
    "self_attention.linear_proj.weight": (64, 64),
    "pre_mlp_layernorm.weight": (64,),
    "mlp.linear_fc1.weight": (192, 64),
    "mlp.linear_fc2.weight": (64, 96),
}
CANONICAL = {
    "embedding.word_embeddings.weight": (128, 64),
    "embedding.norm.weight": (64,),
    **{f"transformer.layers.{i}.{name}": shape for i in range(4) for name, shape in PER_LAYER.items()},
    **{f"transformer.layers.{i}.input_layernorm.weight": (64,) for i in (1, 2, 3)},
    "transformer.final_layernorm.weight": (64,),
    "head.dense.weight": (64, 64),
    "head.norm.weight": (64,),
    "output_layer.bias": (128,),
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_hf_names_are_the_keys_of_the_transformers_class(objective: str) -> None:
    state = hf_model(objective).state_dict()
    assert state.pop("decoder.weight").equal(state["model.embeddings.tok_embeddings.weight"]), "tied"
    shapes = {hf_name: name.hf_shape for name in tensor_names(objective, MODEL) for hf_name in name.hf_names}
    assert shapes == {key: tuple(tensor.shape) for key, tensor in state.items()}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_canonical_names_are_those_of_a_checkpoint(objective: str) -> None:
    assert {name.canonical: name.shape for name in tensor_names(objective, MODEL)} == CANONICAL


# Layers, width, width of the gated MLP, heads, parameters: the six published sizes (Ettin paper, table 1).
PUBLISHED = {
    "17m": (7, 256, 384, 4, 16_913_600),
    "32m": (10, 384, 576, 6, 32_081_344),
    "68m": (19, 512, 768, 8, 68_457_664),
    "150m": (22, 768, 1152, 12, 149_655_232),
    "400m": (28, 1024, 2624, 16, 395_881_664),
    "1b": (28, 1792, 3840, 28, 1_031_314_112),
}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("size", PUBLISHED)
def test_the_table_has_all_parameters_of_the_published_sizes(objective: str, size: str) -> None:
    layers, hidden, ffn, heads, parameters = PUBLISHED[size]
    model = ModelConfig(
        num_layers=layers, hidden_size=hidden, ffn_hidden_size=ffn, num_attention_heads=heads, vocab_size=50368
    )
    assert sum(math.prod(name.shape) for name in tensor_names(objective, model)) == parameters


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_round_trip_is_bit_equal(objective: str) -> None:
    tensors = random_tensors(objective)
    for name in tensor_names(objective, MODEL):
        converted = tensor_to_hf(name, tensors[name.canonical], MODEL.num_attention_heads)
        assert [tuple(part.shape) for part in converted] == [name.hf_shape] * len(name.hf_names)
        back = tensor_from_hf(name, converted, MODEL.num_attention_heads, padded_vocab_size=MODEL.vocab_size)
        assert back.equal(tensors[name.canonical])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_attention_rows_are_reordered_from_per_head_to_q_k_v(objective: str) -> None:
    # Each row of two heads of size 2, labelled by what it computes, in Megatron's order.
    canonical = ["q00", "q01", "k00", "k01", "v00", "v01", "q10", "q11", "k10", "k11", "v10", "v11"]
    hf = ["q00", "q01", "q10", "q11", "k00", "k01", "k10", "k11", "v00", "v01", "v10", "v11"]
    rows = torch.arange(12.0)[:, None]
    parts = ("Wqkv",) if objective == "mlm" else ("q", "k", "v")
    name = TensorName("canonical", parts, (12, 1), "heads")
    converted = torch.cat(tensor_to_hf(name, rows, 2))
    assert [canonical[int(row)] for row in converted[:, 0]] == hf


def test_vocabulary_padding_is_removed_on_export_and_zero_on_import() -> None:
    name = TensorName("canonical", ("hf",), (5, 2), "vocabulary")
    true = torch.arange(10.0).view(5, 2)
    padded = tensor_from_hf(name, [true], 1, padded_vocab_size=8)
    assert padded[:5].equal(true)
    assert padded[5:].equal(torch.zeros(3, 2))
    assert tensor_to_hf(name, padded, 1)[0].equal(true)
