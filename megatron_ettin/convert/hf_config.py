"""Our model shape <-> Hugging Face's config.json.

Written configs leave nothing to a default: defaults differ between the two classes and between versions of
transformers. Where versions disagree on a key's name (layer pattern, RoPE bases, dtype), both names are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megatron_ettin.config.layer_pattern import layer_pattern, local_window
from megatron_ettin.config.model import ModelConfig
from megatron_ettin.config.objectives import OBJECTIVES, RELEASED_OBJECTIVES, is_encoder
from megatron_ettin.convert.hf_tokenizer import SpecialTokens
from megatron_ettin.errors import ConfigError

TESTED_TRANSFORMERS = "5.23.0"
"""Version whose classes the conversion is tested against."""

FIXED: Mapping[str, bool | float | str] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "classifier_activation": "gelu",
    "classifier_bias": False,
    "embedding_dropout": 0.0,
    "hidden_activation": "gelu",
    "mlp_bias": False,
    "mlp_dropout": 0.0,
    "norm_bias": False,
}
"""Keys with the one value that the architecture has. The prediction head reads the classifier's bias and activation."""


@dataclass(frozen=True)
class ImportedConfig:
    """What a config.json says about a model."""

    model: ModelConfig
    objective: str
    max_positions: int
    has_output_bias: bool


def config_to_theirs(
    model: ModelConfig,
    objective: str,
    *,
    max_positions: int,
    tokens: SpecialTokens,
    dtype: str,
    base_only: bool = False,
) -> dict[str, Any]:
    """Return the content of config.json.

    Args:
        model: shape with ``vocab_size`` resolved.
        objective: what the model was trained by.
        max_positions: longest row of training.
        tokens: special tokens of its tokenizer.
        dtype: torch's name of the weights' type, without ``torch.``.
        base_only: describe the class without head and output.
    """
    kinds = [layer.kind for layer in layer_pattern(model, "bidirectional")]
    classes = OBJECTIVES[objective].hub
    return {
        "architectures": [classes.base_architecture if base_only else classes.architecture],
        "model_type": classes.model_type,
        **FIXED,
        "tie_word_embeddings": not model.untie_embeddings_and_output_weights,
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "max_position_embeddings": max_positions,
        "norm_eps": model.norm_epsilon,
        "initializer_range": model.init_std,
        "initializer_cutoff_factor": model.init_cutoff,
        "decoder_bias": True,
        "classifier_dropout": 0.0,
        "layer_types": ["full_attention" if kind == "global" else "sliding_attention" for kind in kinds],
        "global_attn_every_n_layers": model.global_attention_every,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": model.rope_global_base},
            "sliding_attention": {"rope_type": "default", "rope_theta": model.rope_local_base},
        },
        "global_rope_theta": model.rope_global_base,
        "local_rope_theta": model.rope_local_base,
        "local_attention": _local_attention(model, objective),
        **_keys_of_one_class(model, objective),
        "bos_token_id": tokens.cls.id,
        "cls_token_id": tokens.cls.id,
        "eos_token_id": tokens.sep.id,
        "sep_token_id": tokens.sep.id,
        "pad_token_id": tokens.pad.id,
        "dtype": dtype,
        "torch_dtype": dtype,
        "transformers_version": TESTED_TRANSFORMERS,
    }


def _local_attention(model: ModelConfig, objective: str) -> int:
    """Return the ``local_attention`` under which their class sees as many keys as the model was trained with.

    Raises:
        ConfigError: the window is too narrow for a decoder to see itself.
    """
    if is_encoder(objective):
        return model.sliding_window
    left, _ = local_window(model.sliding_window, "causal", model.causal_window)
    if left < 0:
        raise ConfigError(f"--sliding-window {model.sliding_window}: a decoder's position must at least see itself")
    # Their decoder sees itself and local_attention // 2 - 1 keys before it; an odd width is the even one below it.
    widest = model.sliding_window if model.causal_window == "transformers" else model.sliding_window + 2
    assert widest // 2 - 1 == left, (widest, left)
    return widest


def _keys_of_one_class(model: ModelConfig, objective: str) -> dict[str, Any]:
    if is_encoder(objective):
        return {
            "classifier_pooling": "mean",
            "deterministic_flash_attn": False,
            "sparse_prediction": False,
            "sparse_pred_ignore_index": -100,
        }
    return {"sliding_window": _local_attention(model, objective) // 2, "use_cache": True}


def config_to_ours(config: Mapping[str, Any]) -> ImportedConfig:
    """Read a config.json of either class, old or new.

    Keys on which the function does not depend are ignored. Dropout of attention outputs, which theirs does not know,
    takes our default.

    Raises:
        ConfigError: naming the key that is missing or has a value which the architecture cannot represent.
    """
    objective = _objective(config)
    for key, value in FIXED.items():
        if config.get(key, value) != value:
            raise _refusal(config, key, f"only {value!r} can be represented")
    num_layers = _whole_number(config, "num_hidden_layers")
    hidden, heads = _whole_number(config, "hidden_size"), _whole_number(config, "num_attention_heads")
    if hidden % heads or config.get("head_dim") not in (None, hidden // heads):
        raise _refusal(config, "head_dim" if "head_dim" in config else "num_attention_heads", "heads split hidden_size")
    pattern = _global_attention_every(config, num_layers)
    global_base, local_base = _rope_bases(config)
    max_positions = _whole_number(config, "max_position_embeddings")
    defaults = ModelConfig()
    model = ModelConfig(
        num_layers=num_layers,
        hidden_size=hidden,
        ffn_hidden_size=_whole_number(config, "intermediate_size"),
        num_attention_heads=heads,
        vocab_size=_whole_number(config, "vocab_size"),
        untie_embeddings_and_output_weights=not _truth(config, "tie_word_embeddings"),
        norm_epsilon=_number(config, "norm_eps"),
        sliding_window=_sliding_window(config, objective, max_positions),
        global_attention_every=pattern,
        rope_global_base=global_base,
        rope_local_base=local_base,
        init_std=float(config.get("initializer_range", defaults.init_std)),
        init_cutoff=float(config.get("initializer_cutoff_factor", defaults.init_cutoff)),
    )
    return ImportedConfig(model, objective, max_positions, has_output_bias=_truth(config, "decoder_bias"))


def _objective(config: Mapping[str, Any]) -> str:
    known = {OBJECTIVES[name].hub.model_type: name for name in RELEASED_OBJECTIVES}
    if config.get("model_type") not in known:
        raise _refusal(config, "model_type", f"must be one of {', '.join(known)}")
    return known[config["model_type"]]


def _global_attention_every(config: Mapping[str, Any], num_layers: int) -> int:
    """Return N where the global layers are the multiples of N; ``layer_types`` goes before the older key."""
    if config.get("layer_types") is None:
        return _whole_number(config, "global_attn_every_n_layers")
    types = config["layer_types"]
    told = config.get("global_attn_every_n_layers")
    for every in (*([told] if isinstance(told, int) and told > 0 else []), *range(1, num_layers + 1)):
        if types == ["sliding_attention" if i % every else "full_attention" for i in range(num_layers)]:
            return every
    rule = "full_attention must stand at the multiples of one number and sliding_attention everywhere else"
    raise _refusal(config, "layer_types", f"{rule}, for {num_layers} layers")


def _rope_bases(config: Mapping[str, Any]) -> tuple[float, float]:
    """Return the bases of global and local layers; a local base that is null or negative is the global one."""
    if config.get("rope_scaling") is not None:
        raise _refusal(config, "rope_scaling", "only unscaled RoPE can be represented")
    if config.get("rope_parameters") is None:
        return _number(config, "global_rope_theta"), _old_local_base(config)
    return _new_base(config, "full_attention"), _new_base(config, "sliding_attention")


def _new_base(config: Mapping[str, Any], layer_type: str) -> float:
    key = f"rope_parameters.{layer_type}"
    parameters = config["rope_parameters"].get(layer_type)
    if not isinstance(parameters, Mapping):
        raise ConfigError(f"config.json: {key} is missing; its default differs between versions of transformers")
    if parameters.get("rope_type", "default") != "default":
        raise ConfigError(
            f"config.json: {key}.rope_type {parameters['rope_type']!r}: only 'default' can be represented"
        )
    return _number(parameters, "rope_theta", within=f"{key}.")


def _old_local_base(config: Mapping[str, Any]) -> float:
    if "local_rope_theta" not in config:
        raise ConfigError("config.json: local_rope_theta is missing; its default differs between versions")
    local = config["local_rope_theta"]
    # The trainer of the published models wrote "as the global layers" as null or -1.
    unset = local is None or (isinstance(local, int | float) and local <= 0)
    return _number(config, "global_rope_theta" if unset else "local_rope_theta")


def _sliding_window(config: Mapping[str, Any], objective: str, max_positions: int) -> int:
    """Return the width of local layers; "no window" (null or negative) becomes one that reaches over every row."""
    width = config.get("local_attention", 0)
    if width is None or (isinstance(width, int) and width < 0):
        return 2 * (max_positions + 1)
    if _whole_number(config, "local_attention") < 2:
        raise _refusal(config, "local_attention", "must be at least 2, or -1 for no window")
    if not is_encoder(objective) and config.get("sliding_window") not in (None, width // 2):
        raise _refusal(config, "sliding_window", f"must be half of local_attention {width}")
    return int(width)


def _truth(config: Mapping[str, Any], key: str) -> bool:
    """Read a key that is true where it is missing."""
    value = config.get(key, True)
    if not isinstance(value, bool):
        raise _refusal(config, key, "must be true or false")
    return value


def _whole_number(config: Mapping[str, Any], key: str) -> int:
    value = _number(config, key)
    if not value.is_integer():
        raise _refusal(config, key, "must be a whole number")
    return int(value)


def _number(config: Mapping[str, Any], key: str, within: str = "") -> float:
    if key not in config:
        raise ConfigError(f"config.json: {within}{key} is missing")
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigError(f"config.json: {within}{key} {value!r}: must be a positive number")
    return float(value)


def _refusal(config: Mapping[str, Any], key: str, rule: str) -> ConfigError:
    return ConfigError(f"config.json: {key} {config.get(key)!r}: {rule}")
