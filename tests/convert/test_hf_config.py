"""config.json in both directions: transformers reads what is written, and unsupported values are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from megatron_ettin.config.layer_pattern import local_window
from megatron_ettin.config.model import ModelConfig
from megatron_ettin.config.objectives import OBJECTIVES as TRAITS
from megatron_ettin.config.objectives import mask_kind_of
from megatron_ettin.convert.hf_config import config_from_hf, config_to_hf
from megatron_ettin.errors import ConfigError
from tests.convert.samples import MODEL, OBJECTIVES, TOKENS

SHAPES = {
    "tiny": MODEL,
    "seven layers": replace(MODEL, num_layers=7, global_attention_every=2, sliding_window=64),
    "two layers": replace(MODEL, num_layers=2, norm_epsilon=1e-6, init_std=0.01, init_cutoff=3.0),
    "all global": replace(MODEL, global_attention_every=1),
    "only the first global": replace(MODEL, global_attention_every=9),
    "odd window": replace(MODEL, sliding_window=33),
    "untied": replace(MODEL, untie_embeddings_and_output_weights=True),
}

OLD = {
    "vocab_size": 50368,
    "hidden_size": 768,
    "intermediate_size": 1152,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "hidden_activation": "gelu",
    "max_position_embeddings": 8192,
    "norm_eps": 1e-5,
    "norm_bias": False,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000,
    "local_rope_theta": 10000,
    "local_attention": 128,
    "decoder_bias": True,
    "position_embedding_type": "absolute",
    "tie_word_embeddings": True,
}
"""Keys of a config written by transformers 4."""


def written(objective: str, model: ModelConfig = MODEL, **changes: Any) -> dict[str, Any]:
    config = config_to_hf(model, objective, max_positions=1024, tokens=TOKENS, dtype="float32")
    without = {key for key, value in changes.items() if value is ...}
    return {key: value for key, value in (config | changes).items() if key not in without}


def old(objective: str, **changes: Any) -> dict[str, Any]:
    without = {key for key, value in changes.items() if value is ...}
    config = {"model_type": TRAITS[objective].hub.model_type, **OLD, **changes}
    return {key: value for key, value in config.items() if key not in without}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("model", SHAPES.values(), ids=SHAPES.keys())
def test_a_round_trip_keeps_the_shape(objective: str, model: ModelConfig) -> None:
    imported = config_from_hf(json.loads(json.dumps(written(objective, model))))
    assert imported.model == model
    assert (imported.objective, imported.max_positions, imported.has_output_bias) == (objective, 1024, True)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_transformers_reads_every_written_value(objective: str) -> None:
    import transformers

    config = written(objective)
    hf_class: Any = {"mlm": transformers.ModernBertConfig, "clm": transformers.ModernBertDecoderConfig}[objective]
    read = hf_class(**config).to_dict()
    # A version that knows the first name of a key consumes or ignores the second.
    second_names = {"global_rope_theta", "local_rope_theta", "torch_dtype", "transformers_version"}
    for key in config.keys() - second_names:
        assert read[key] == config[key], key


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_value_relies_on_a_default_of_transformers(objective: str) -> None:
    import transformers

    hf_class: Any = {"mlm": transformers.ModernBertConfig, "clm": transformers.ModernBertDecoderConfig}[objective]
    of_every_model = transformers.PreTrainedConfig().to_dict().keys()
    assert not hf_class().to_dict().keys() - of_every_model - written(objective).keys()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_old_configs_are_read(objective: str) -> None:
    model = config_from_hf(old(objective)).model
    assert model == ModelConfig(
        num_layers=22,
        hidden_size=768,
        ffn_hidden_size=1152,
        num_attention_heads=12,
        vocab_size=50368,
        sliding_window=128,
        global_attention_every=3,
        rope_global_base=160_000.0,
        rope_local_base=10_000.0,
    )


@pytest.mark.parametrize("unset", [None, -1])
def test_an_unset_local_base_equals_the_global_one(unset: int | None) -> None:
    assert config_from_hf(old("clm", local_rope_theta=unset)).model.rope_local_base == 160_000.0


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("off", [None, -1])
def test_a_disabled_window_covers_every_row(objective: str, off: int | None) -> None:
    imported = config_from_hf(old(objective, local_attention=off))
    kind = mask_kind_of(objective)
    left, right = local_window(imported.model.sliding_window, kind, imported.model.causal_window)
    assert left >= 8192 - 1
    assert right >= 8192 - 1 or objective == "clm"


@pytest.mark.parametrize("window", [2, 33, 64, 128])
def test_the_authors_causal_window_is_written_one_key_wider(window: int) -> None:
    model = replace(MODEL, sliding_window=window, causal_window="authors")
    config = written("clm", model)
    read_back = config_from_hf(config).model
    assert read_back.causal_window == "transformers"
    assert local_window(read_back.sliding_window, "causal", "transformers") == (window // 2, 0)
    assert config["sliding_window"] == config["local_attention"] // 2
    assert written("mlm", model)["local_attention"] == window, "causal_window does not affect an encoder"


REFUSED = {
    "another architecture": (old("mlm", model_type="bert"), "model_type 'bert'"),
    "no architecture": (old("mlm", model_type=...), "model_type None"),
    "norm bias": (old("mlm", norm_bias=True), "norm_bias True"),
    "attention bias": (old("clm", attention_bias=True), "attention_bias True"),
    "mlp bias": (old("clm", mlp_bias=True), "mlp_bias True"),
    "head bias": (old("mlm", classifier_bias=True), "classifier_bias True"),
    "activation": (old("mlm", hidden_activation="silu"), "hidden_activation 'silu'"),
    "head activation": (old("mlm", classifier_activation="relu"), "classifier_activation 'relu'"),
    "dropout": (old("mlm", attention_dropout=0.1), "attention_dropout 0.1"),
    "tied or not": (old("clm", tie_word_embeddings=None), "tie_word_embeddings None"),
    "bias or not": (old("clm", decoder_bias="yes"), "decoder_bias 'yes'"),
    "heads": (old("mlm", num_attention_heads=7), "num_attention_heads 7"),
    "head size": (old("mlm", head_dim=32), "head_dim 32"),
    "no hidden size": (old("mlm", hidden_size=...), "hidden_size is missing"),
    "size as text": (old("mlm", hidden_size="768"), "hidden_size '768'"),
    "half a layer": (old("mlm", num_hidden_layers=2.5), "num_hidden_layers 2.5"),
    "no local base": (old("clm", local_rope_theta=...), "local_rope_theta is missing"),
    "no global base": (old("clm", global_rope_theta=...), "global_rope_theta is missing"),
    "no pattern": (old("mlm", global_attn_every_n_layers=...), "global_attn_every_n_layers is missing"),
    "no window": (old("mlm", local_attention=...), "local_attention is missing"),
    "narrow window": (old("clm", local_attention=1), "local_attention 1"),
    "two windows": (written("clm", sliding_window=32), "sliding_window 32"),
    "scaled rope": (old("mlm", rope_scaling={"factor": 2.0}), "rope_scaling"),
    "yarn": (
        written("mlm", rope_parameters={"full_attention": {"rope_type": "yarn", "rope_theta": 1e4}}),
        "rope_parameters.full_attention.rope_type 'yarn'",
    ),
    "one rope only": (
        written("mlm", rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 1e4}}),
        "rope_parameters.sliding_attention is missing",
    ),
    "rope without base": (
        written("mlm", rope_parameters={"full_attention": {"rope_type": "default"}}),
        "rope_parameters.full_attention.rope_theta is missing",
    ),
    "last of each group global": (
        written("mlm", layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]),
        "layer_types",
    ),
    "too few layer types": (written("mlm", layer_types=["full_attention"]), "layer_types ['full_attention']"),
}


@pytest.mark.parametrize(("config", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_unsupported_values_are_reported_by_their_key(config: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        config_from_hf(config)
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)
