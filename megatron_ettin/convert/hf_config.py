"""Convert between ModelConfig and Hugging Face's config.json.

Written configs rely on no default: defaults differ between the two classes and between versions of transformers. Where
versions disagree on the name of a key (layer pattern, RoPE bases, dtype), both names are written.
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
"""Version that the conversion is tested with."""

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
"""Keys with the only value that the architecture supports; the prediction head uses ``classifier_bias`` and
``classifier_activation``."""


@dataclass(frozen=True)
class ImportedConfig:
    """The content of a config.json."""

    model: ModelConfig
    objective: str
    max_positions: int
    has_output_bias: bool


def config_to_hf(
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
        objective: the training objective.
        max_positions: longest row of training.
        tokens: special tokens of its tokenizer.
        dtype: type of the weights, such as ``bfloat16``.
        base_only: describe the class without head and output layer.
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
        **_class_keys(model, objective),
        "bos_token_id": tokens.cls.id,
        "cls_token_id": tokens.cls.id,
        "eos_token_id": tokens.end.id,
        "sep_token_id": tokens.sep.id,
        "pad_token_id": tokens.pad.id,
        "dtype": dtype,
        "torch_dtype": dtype,
        "transformers_version": TESTED_TRANSFORMERS,
    }


def _local_attention(model: ModelConfig, objective: str) -> int:
    """Return the ``local_attention`` with which the released class has the window of training.

    Raises:
        ConfigError: the window is too narrow for a decoder position to attend to itself.
    """
    if is_encoder(objective):
        return model.sliding_window
    left, _ = local_window(model.sliding_window, "causal", model.causal_window)
    if left < 0:
        raise ConfigError(f"--sliding-window {model.sliding_window}: a decoder position must at least attend to itself")
    # transformers' decoder attends to itself and local_attention // 2 - 1 keys before; odd widths are rounded down.
    widest = model.sliding_window if model.causal_window == "transformers" else model.sliding_window + 2
    assert widest // 2 - 1 == left, (widest, left)
    return widest


def _class_keys(model: ModelConfig, objective: str) -> dict[str, Any]:
    if is_encoder(objective):
        return {
            "classifier_pooling": "mean",
            "deterministic_flash_attn": False,
            "sparse_prediction": False,
            "sparse_pred_ignore_index": -100,
        }
    return {"sliding_window": _local_attention(model, objective) // 2, "use_cache": True}


def config_from_hf(config: Mapping[str, Any]) -> ImportedConfig:
    """Read a config.json of either class, written by an old or a new version.

    Keys that do not affect the computation are ignored. Dropout after attention, which has no key, gets our default.

    Raises:
        ConfigError: a key is missing, or has a value that the architecture cannot represent.
    """
    objective = _objective(config)
    for key, value in FIXED.items():
        if config.get(key, value) != value:
            raise _error(config, key, f"only {value!r} can be represented")
    num_layers = _integer(config, "num_hidden_layers")
    hidden, heads = _integer(config, "hidden_size"), _integer(config, "num_attention_heads")
    if hidden % heads or config.get("head_dim") not in (None, hidden // heads):
        raise _error(config, "head_dim" if "head_dim" in config else "num_attention_heads", "heads split hidden_size")
    pattern = _global_attention_every(config, num_layers)
    global_base, local_base = _rope_bases(config)
    max_positions = _integer(config, "max_position_embeddings")
    defaults = ModelConfig()
    model = ModelConfig(
        num_layers=num_layers,
        hidden_size=hidden,
        ffn_hidden_size=_integer(config, "intermediate_size"),
        num_attention_heads=heads,
        vocab_size=_integer(config, "vocab_size"),
        untie_embeddings_and_output_weights=not _flag(config, "tie_word_embeddings"),
        norm_epsilon=_number(config, "norm_eps"),
        sliding_window=_sliding_window(config, objective, max_positions),
        global_attention_every=pattern,
        rope_global_base=global_base,
        rope_local_base=local_base,
        init_std=float(config.get("initializer_range", defaults.init_std)),
        init_cutoff=float(config.get("initializer_cutoff_factor", defaults.init_cutoff)),
    )
    return ImportedConfig(model, objective, max_positions, has_output_bias=_flag(config, "decoder_bias"))


def _objective(config: Mapping[str, Any]) -> str:
    known = {OBJECTIVES[name].hub.model_type: name for name in RELEASED_OBJECTIVES}
    if config.get("model_type") not in known:
        raise _error(config, "model_type", f"must be one of {', '.join(known)}")
    return known[config["model_type"]]


def _global_attention_every(config: Mapping[str, Any], num_layers: int) -> int:
    """Return N where layers 0, N, 2N, ... are global; ``layer_types`` takes precedence over the older key."""
    if config.get("layer_types") is None:
        return _integer(config, "global_attn_every_n_layers")
    types = config["layer_types"]
    given = config.get("global_attn_every_n_layers")
    for every in (*([given] if isinstance(given, int) and given > 0 else []), *range(1, num_layers + 1)):
        if types == ["sliding_attention" if i % every else "full_attention" for i in range(num_layers)]:
            return every
    rule = "full_attention must be at the multiples of one number and sliding_attention everywhere else"
    raise _error(config, "layer_types", f"{rule}, for {num_layers} layers")


def _rope_bases(config: Mapping[str, Any]) -> tuple[float, float]:
    """Return the RoPE bases of global and local layers; a local base that is null or negative is the global one."""
    if config.get("rope_scaling") is not None:
        raise _error(config, "rope_scaling", "only unscaled RoPE can be represented")
    if config.get("rope_parameters") is None:
        return _number(config, "global_rope_theta"), _local_rope_theta(config)
    return _rope_base(config, "full_attention"), _rope_base(config, "sliding_attention")


def _rope_base(config: Mapping[str, Any], layer_type: str) -> float:
    key = f"rope_parameters.{layer_type}"
    parameters = config["rope_parameters"].get(layer_type)
    if not isinstance(parameters, Mapping):
        raise ConfigError(f"config.json: {key} is missing; its default differs between versions of transformers")
    if parameters.get("rope_type", "default") != "default":
        raise ConfigError(
            f"config.json: {key}.rope_type {parameters['rope_type']!r}: only 'default' can be represented"
        )
    return _number(parameters, "rope_theta", within=f"{key}.")


def _local_rope_theta(config: Mapping[str, Any]) -> float:
    if "local_rope_theta" not in config:
        raise ConfigError("config.json: local_rope_theta is missing; its default differs between versions")
    local = config["local_rope_theta"]
    # The trainer of the published models wrote null or -1 for "as in global layers".
    unset = local is None or (isinstance(local, int | float) and local <= 0)
    return _number(config, "global_rope_theta" if unset else "local_rope_theta")


def _sliding_window(config: Mapping[str, Any], objective: str, max_positions: int) -> int:
    """Return the window of local layers; without one (null or negative), a window that covers every row."""
    width = config.get("local_attention", 0)
    if width is None or (isinstance(width, int) and width < 0):
        return 2 * (max_positions + 1)
    if _integer(config, "local_attention") < 2:
        raise _error(config, "local_attention", "must be at least 2, or -1 for no window")
    if not is_encoder(objective) and config.get("sliding_window") not in (None, width // 2):
        raise _error(config, "sliding_window", f"must be half of local_attention {width}")
    return int(width)


def _flag(config: Mapping[str, Any], key: str) -> bool:
    """Return a boolean key, True where it is missing."""
    value = config.get(key, True)
    if not isinstance(value, bool):
        raise _error(config, key, "must be true or false")
    return value


def _integer(config: Mapping[str, Any], key: str) -> int:
    value = _number(config, key)
    if not value.is_integer():
        raise _error(config, key, "must be an integer")
    return int(value)


def _number(config: Mapping[str, Any], key: str, within: str = "") -> float:
    if key not in config:
        raise ConfigError(f"config.json: {within}{key} is missing")
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigError(f"config.json: {within}{key} {value!r}: must be a positive number")
    return float(value)


def _error(config: Mapping[str, Any], key: str, rule: str) -> ConfigError:
    return ConfigError(f"config.json: {key} {config.get(key)!r}: {rule}")
