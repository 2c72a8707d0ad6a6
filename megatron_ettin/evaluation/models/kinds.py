"""Which of the four kinds a released model is: from its class, its card and its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from megatron_ettin.config.objectives import OBJECTIVES
from megatron_ettin.errors import ConfigError

Kind = Literal["encoder", "decoder", "encoder-from-decoder", "decoder-from-encoder"]
KINDS: tuple[Kind, ...] = ("encoder", "decoder", "encoder-from-decoder", "decoder-from-encoder")

_HEADS = {"ForMaskedLM": True, "ForPreTraining": True, "ForCausalLM": False, "LMHeadModel": False}
"""How transformers' classes with a prediction head end, and whether that is an encoder."""

_CROSSED = re.compile(r"(enc(?:oder)?-from-dec(?:oder)?|dec(?:oder)?-from-enc(?:oder)?)(?![a-z])")
"""Names such as ettin-encoder-from-decoder-17m and the older ettin-enc-from-dec-17m."""

_LINEAGE_HEAD = re.compile(r"^\| phase \| objective \|.*\n\|[-| ]+\|\n((?:\|.*\n?)+)", re.MULTILINE)
"""The table in the card of a model that this project trained: a line for each stretch of its life."""


def has_head(config: Mapping[str, Any]) -> bool:
    """Whether config.json names a class with a prediction head."""
    return any(_class_name(config).endswith(ending) for ending in _HEADS)


def kind_of(config: Mapping[str, Any], *, card: str, name: str) -> Kind:
    """Return a model's kind.

    The class in config.json tells encoder from decoder. Whether it was made from the other kind the card tells, where
    its table of training has stretches by the other objective; where there is no such table, the name.

    Raises:
        ConfigError: it is neither, as an encoder with a decoder.
    """
    is_encoder = _is_encoder(config, name)
    if _came_from_other(card, name, is_encoder=is_encoder):
        return "encoder-from-decoder" if is_encoder else "decoder-from-encoder"
    return "encoder" if is_encoder else "decoder"


def _came_from_other(card: str, name: str, *, is_encoder: bool) -> bool:
    found = _LINEAGE_HEAD.search(card)
    if not found:
        return _names_crossing(name, is_encoder=is_encoder)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]
    others = {name for name, traits in OBJECTIVES.items() if (traits.product == "encoder") != is_encoder}
    return any(row[1] in others or _names_crossing(row[-1], is_encoder=is_encoder) for row in rows)


def _names_crossing(name: str, *, is_encoder: bool) -> bool:
    found = _CROSSED.search(name.lower().replace("_", "-"))
    return found is not None and found[1].startswith("enc") == is_encoder


def _is_encoder(config: Mapping[str, Any], name: str) -> bool:
    architecture = _class_name(config)
    told = next((encoder for ending, encoder in _HEADS.items() if architecture.endswith(ending)), None)
    if config.get("is_encoder_decoder") or (told is not None and config.get("is_decoder") and told):
        raise ConfigError(f"--model {name}: {architecture} is neither an encoder nor a decoder by itself")
    return _is_encoder_by_type(config, name) if told is None else told


def _is_encoder_by_type(config: Mapping[str, Any], name: str) -> bool:
    """Tell a class without head by the classes with one that transformers has for its type."""
    model_type = str(config.get("model_type", ""))
    if model_type in ("modernbert", "modernbert-decoder"):
        return model_type == "modernbert"
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    if model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.get("is_decoder"):
        return True
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return False
    raise ConfigError(
        f"--model {name}: model_type {model_type or 'missing'} is no language model that transformers knows"
    )


def _class_name(config: Mapping[str, Any]) -> str:
    architectures = config.get("architectures") or [""]
    return str(architectures[0])
