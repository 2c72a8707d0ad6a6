"""The four kinds of models, and finding a released model's kind from its class, card and name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from megatron_ettin.config.objectives import OBJECTIVES
from megatron_ettin.errors import ConfigError

Kind = Literal["encoder", "decoder", "encoder-from-decoder", "decoder-from-encoder"]
KINDS: tuple[Kind, ...] = ("encoder", "decoder", "encoder-from-decoder", "decoder-from-encoder")

_HEADS = {"ForMaskedLM": True, "ForPreTraining": True, "ForCausalLM": False, "LMHeadModel": False}
"""Endings of transformers' classes with a prediction head, and whether they are encoders."""

_CROSSED = re.compile(r"(enc(?:oder)?-from-dec(?:oder)?|dec(?:oder)?-from-enc(?:oder)?)(?![a-z])")
"""Names such as ettin-encoder-from-decoder-17m and the older ettin-enc-from-dec-17m."""

_LINEAGE_TABLE = re.compile(r"^\| phase \| objective \|.*\n\|[-| ]+\|\n((?:\|.*\n?)+)", re.MULTILINE)
"""The lineage table in the card of a model trained by this project: one row for each phase."""


def has_head(config: Mapping[str, Any]) -> bool:
    """Whether config.json names a class with a prediction head."""
    return any(_class_name(config).endswith(ending) for ending in _HEADS)


def kind_of(config: Mapping[str, Any], *, card: str, name: str) -> Kind:
    """Return a model's kind.

    The class in config.json distinguishes encoders from decoders. A model was made from the other kind if the lineage
    table in its card has a phase with the other objective, or, without such a table, if its name says so.

    Raises:
        ConfigError: it is neither, such as an encoder-decoder.
    """
    is_encoder = _is_encoder(config, name)
    if _is_from_other_kind(card, name, is_encoder=is_encoder):
        return "encoder-from-decoder" if is_encoder else "decoder-from-encoder"
    return "encoder" if is_encoder else "decoder"


def _is_from_other_kind(card: str, name: str, *, is_encoder: bool) -> bool:
    table = _LINEAGE_TABLE.search(card)
    if not table:
        return _names_crossing(name, is_encoder=is_encoder)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()]
    others = {name for name, traits in OBJECTIVES.items() if (traits.product == "encoder") != is_encoder}
    return any(row[1] in others or _names_crossing(row[-1], is_encoder=is_encoder) for row in rows)


def _names_crossing(name: str, *, is_encoder: bool) -> bool:
    match = _CROSSED.search(name.lower().replace("_", "-"))
    return match is not None and match[1].startswith("enc") == is_encoder


def _is_encoder(config: Mapping[str, Any], name: str) -> bool:
    architecture = _class_name(config)
    by_head = next((encoder for ending, encoder in _HEADS.items() if architecture.endswith(ending)), None)
    if config.get("is_encoder_decoder") or (by_head and config.get("is_decoder")):
        raise ConfigError(f"--model {name}: {architecture} is neither an encoder nor a decoder by itself")
    return _is_encoder_by_type(config, name) if by_head is None else by_head


def _is_encoder_by_type(config: Mapping[str, Any], name: str) -> bool:
    """Classify a class without head by the classes with heads that transformers has for its model type."""
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
        f"--model {name}: model_type {model_type or 'missing'} is not a language model that transformers knows"
    )


def _class_name(config: Mapping[str, Any]) -> str:
    architectures = config.get("architectures") or [""]
    return str(architectures[0])
