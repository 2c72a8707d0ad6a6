"""The table of names: nothing left over on either side, and nothing changed on the way there and back."""

from __future__ import annotations

import math

import pytest
import torch

from megatron_ettin.config.model import ModelConfig
from megatron_ettin.convert.tensor_names import TensorName, convert_to_ours, convert_to_theirs, tensor_names
from tests.convert.samples import MODEL, OBJECTIVES, random_tensors, their_model

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
def test_theirs_are_exactly_the_keys_of_transformers_class(objective: str) -> None:
    state = their_model(objective).state_dict()
    assert state.pop("decoder.weight").equal(state["model.embeddings.tok_embeddings.weight"]), "tied"
    found = {theirs: name.their_shape for name in tensor_names(objective, MODEL) for theirs in name.theirs}
    assert found == {key: tuple(tensor.shape) for key, tensor in state.items()}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_ours_are_exactly_the_canonical_tensors(objective: str) -> None:
    assert {name.ours: name.shape for name in tensor_names(objective, MODEL)} == CANONICAL


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
def test_the_table_holds_every_parameter_of_the_published_sizes(objective: str, size: str) -> None:
    layers, hidden, ffn, heads, parameters = PUBLISHED[size]
    model = ModelConfig(
        num_layers=layers, hidden_size=hidden, ffn_hidden_size=ffn, num_attention_heads=heads, vocab_size=50368
    )
    assert sum(math.prod(name.shape) for name in tensor_names(objective, model)) == parameters


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_there_and_back_changes_no_bit(objective: str) -> None:
    tensors = random_tensors(objective)
    for name in tensor_names(objective, MODEL):
        theirs = convert_to_theirs(name, tensors[name.ours], MODEL.num_attention_heads)
        assert [tuple(part.shape) for part in theirs] == [name.their_shape] * len(name.theirs)
        back = convert_to_ours(name, theirs, MODEL.num_attention_heads, padded_vocab_size=MODEL.vocab_size)
        assert back.equal(tensors[name.ours])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_attention_rows_go_from_head_by_head_to_q_then_k_then_v(objective: str) -> None:
    # Each row of two heads of size 2, labelled by what it computes, in Megatron's order.
    ours = ["q00", "q01", "k00", "k01", "v00", "v01", "q10", "q11", "k10", "k11", "v10", "v11"]
    theirs = ["q00", "q01", "q10", "q11", "k00", "k01", "k10", "k11", "v00", "v01", "v10", "v11"]
    rows = torch.arange(12.0)[:, None]
    parts = ("Wqkv",) if objective == "mlm" else ("q", "k", "v")
    name = TensorName("ours", parts, (12, 1), "heads")
    converted = torch.cat(convert_to_theirs(name, rows, 2))
    assert [ours[int(row)] for row in converted[:, 0]] == theirs


def test_vocabulary_rows_are_cut_on_the_way_out_and_filled_with_zeros_on_the_way_in() -> None:
    name = TensorName("ours", ("theirs",), (5, 2), "vocabulary")
    true = torch.arange(10.0).view(5, 2)
    padded = convert_to_ours(name, [true], 1, padded_vocab_size=8)
    assert padded[:5].equal(true)
    assert padded[5:].equal(torch.zeros(3, 2))
    assert convert_to_theirs(name, padded, 1)[0].equal(true)
