"""The reference against transformers' classes, with both attentions, at lengths around the edge of a window."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from megatron_ettin.config.layer_pattern import local_window
from megatron_ettin.config.model import ModelConfig
from megatron_ettin.config.objectives import mask_kind_of
from megatron_ettin.convert.reference import reference_logits, visible_keys
from megatron_ettin.convert.tensor_names import tensor_from_hf, tensor_names
from tests.convert.samples import MODEL, OBJECTIVES, hf_model, random_tensors

LENGTHS = (1, 63, 64, 65, 66, 128, 129, 130, 300, 1024)


def canonical(hf: Any, objective: str, model: ModelConfig) -> dict[str, Tensor]:
    """Return transformers' weights by their canonical names."""
    state = hf.state_dict()
    heads, vocabulary = model.num_attention_heads, model.vocab_size
    return {
        name.canonical: tensor_from_hf(name, [state[t] for t in name.hf_names], heads, padded_vocab_size=vocabulary)
        for name in tensor_names(objective, model)
    }


def documents(lengths: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(MODEL.vocab_size, (length,), generator=generator) for length in lengths]


@pytest.mark.parametrize("causal_window", ["transformers", "authors"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_logits_equal_transformers(objective: str, causal_window: str) -> None:
    model = replace(MODEL, causal_window=causal_window)
    hf = hf_model(objective, model)
    texts = documents(LENGTHS)
    tensors = canonical(hf, objective, model)
    ours = reference_logits(tensors.__getitem__, model, mask_kind_of(objective), texts)
    for attention in ("eager", "sdpa"):
        hf.set_attn_implementation(attention)
        for tokens_S, logits_SV in zip(texts, ours, strict=True):
            with torch.inference_mode():
                expected = hf(tokens_S[None]).logits[0]
            largest = float(expected.abs().max())
            assert largest > 2.0, "small logits would hide differences"
            assert float((logits_SV - expected).abs().max()) <= 2e-5 * max(1.0, largest)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_window_off_by_one_exceeds_the_tolerance(objective: str) -> None:
    """The comparison above is sensitive: a window that is off by one moves the logits far beyond the tolerance."""
    tensors = random_tensors(objective)
    wider = replace(MODEL, sliding_window=MODEL.sliding_window + 2)
    texts = documents((66,))
    kind = mask_kind_of(objective)
    (narrow,), (wide,) = (reference_logits(tensors.__getitem__, m, kind, texts) for m in (MODEL, wider))
    assert float((narrow - wide).abs().max()) > 1e-3


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_fp32_is_close_to_fp64(objective: str) -> None:
    tensors, texts = random_tensors(objective), documents((130,))
    kind = mask_kind_of(objective)
    (single,) = reference_logits(tensors.__getitem__, MODEL, kind, texts)
    (double,) = reference_logits(tensors.__getitem__, MODEL, kind, texts, dtype=torch.float64)
    assert double.dtype == torch.float64
    assert float((single - double).abs().max()) <= 2e-5 * float(double.abs().max())


def test_logits_exclude_vocabulary_padding() -> None:
    tensors, texts = random_tensors("mlm"), documents((7,))
    padded = dict(tensors)
    for name in ("embedding.word_embeddings.weight", "output_layer.bias"):
        padded[name] = torch.cat((tensors[name], torch.full((16, *tensors[name].shape[1:]), torch.nan)))
    (plain,) = reference_logits(tensors.__getitem__, MODEL, "bidirectional", texts)
    (cut,) = reference_logits(padded.__getitem__, MODEL, "bidirectional", texts)
    assert cut.equal(plain)


def test_places_are_observed_from_input_to_output() -> None:
    tensors, seen = random_tensors("clm"), []

    def observe(place: str, document: int, hidden_SH: Tensor) -> None:
        seen.append((place, document, tuple(hidden_SH.shape)))

    reference_logits(tensors.__getitem__, MODEL, "causal", documents((3, 5)), observe=observe)
    places = ["embedding", "layer 0", "layer 1", "layer 2", "layer 3", "final norm", "head"]
    assert seen == [(place, i, (length, 64)) for place in places for i, length in enumerate((3, 5))]


@pytest.mark.parametrize("window", [2, 3, 128, 129, 130])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_local_layer_attends_to_as_many_keys_as_in_transformers(objective: str, attention: str, window: int) -> None:
    """Count the keys by gradient: the inputs that affect one output of a local layer of transformers' class."""
    model = replace(MODEL, num_layers=2, sliding_window=window)
    # Only layer 0 runs, so it is the local one.
    hf = hf_model(objective, model, layer_types=["sliding_attention", "full_attention"])
    hf.set_attn_implementation(attention)
    hf.model.layers = hf.model.layers[:1]
    length, query = 300, 150
    hidden_SH = torch.randn((1, length, model.hidden_size), generator=torch.Generator().manual_seed(2))
    hidden_SH.requires_grad_()
    output_H = hf.model(inputs_embeds=hidden_SH).last_hidden_state[0, query]
    (gradient,) = torch.autograd.grad(output_H @ torch.arange(1.0, 1 + len(output_H)), hidden_SH)
    reached = (gradient[0].abs().sum(dim=-1) > 0).nonzero()[:, 0]

    kind = mask_kind_of(objective)
    left, right = local_window(window, kind, "transformers")
    assert reached.tolist() == list(range(query - left, query + right + 1))
    assert reached.tolist() == visible_keys(length, (left, right), kind)[query].nonzero()[:, 0].tolist()
