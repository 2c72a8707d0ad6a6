"""The training objectives: one row each, holding everything that sets one apart from the others.

A new objective is a row of ``OBJECTIVES`` and a class in ``megatron_ettin/objectives/`` that builds its batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

MaskKind = Literal["bidirectional", "causal"]
"""Whether a token attends to its whole chunk, or to itself and the tokens before it."""

Product = Literal["encoder", "decoder"]


@dataclass(frozen=True)
class HubClasses:
    """Names in Hugging Face transformers of the classes that a model is released as."""

    model_type: str
    architecture: str
    """With prediction head and output layer."""
    base_architecture: str
    """Without them."""
    auto_class: str
    pipeline_tag: str


@dataclass(frozen=True)
class ObjectiveTraits:
    """One row: what the trainer, the planner and the conversion need to know about an objective."""

    name: str
    """The value of ``--objective``."""
    summary: str
    """Follows the name in the help text."""
    product: Product
    mask_kind: MaskKind
    hides_tokens: bool
    """Whether tokens are replaced by [MASK] in the input, and only these are scored."""
    targets: str
    """What is predicted, as headings of figures name it."""
    special_tokens: tuple[str, ...]
    """Roles that the tokenizer must provide."""
    close_every_chunk: bool
    """Whether [SEP] follows every chunk, or by default only the last chunk of a document."""
    quality_metric: Literal["masked_accuracy", "perplexity"]
    """Logged next to the loss."""
    implementation: str
    """MODULE:CLASS that builds the batches."""
    hub: HubClasses
    releases_head: bool = True
    """Whether the released class computes what the prediction head was trained for; otherwise the head is left out."""


_ENCODER = HubClasses("modernbert", "ModernBertForMaskedLM", "ModernBertModel", "AutoModelForMaskedLM", "fill-mask")
_DECODER = HubClasses(
    "modernbert-decoder",
    "ModernBertDecoderForCausalLM",
    "ModernBertDecoderModel",
    "AutoModelForCausalLM",
    "text-generation",
)

_ROWS = (
    ObjectiveTraits(
        name="mlm",
        summary="trains an encoder",
        product="encoder",
        mask_kind="bidirectional",
        hides_tokens=True,
        targets="masked tokens",
        special_tokens=("cls", "sep", "pad", "mask"),
        close_every_chunk=True,
        quality_metric="masked_accuracy",
        implementation="megatron_ettin.objectives.mlm:MaskedLanguageModelling",
        hub=_ENCODER,
    ),
    ObjectiveTraits(
        name="clm",
        summary="a decoder",
        product="decoder",
        mask_kind="causal",
        hides_tokens=False,
        targets="next token",
        special_tokens=("cls", "sep", "pad"),
        close_every_chunk=False,
        quality_metric="perplexity",
        implementation="megatron_ettin.objectives.clm:CausalLanguageModelling",
        hub=_DECODER,
    ),
    ObjectiveTraits(
        name="mntp",
        summary="an encoder that predicts each masked token at the position before it",
        product="encoder",
        mask_kind="bidirectional",
        hides_tokens=True,
        targets="masked tokens, one position before",
        special_tokens=("cls", "sep", "pad", "mask"),
        close_every_chunk=True,
        quality_metric="masked_accuracy",
        implementation="megatron_ettin.objectives.mntp:MaskedNextTokenPrediction",
        hub=_ENCODER,
        releases_head=False,
    ),
)

OBJECTIVES: Mapping[str, ObjectiveTraits] = MappingProxyType({row.name: row for row in _ROWS})

RELEASED_OBJECTIVES = tuple(row.name for row in _ROWS if row.releases_head)
"""Objectives whose released class computes the loss they were trained with: one for each product."""


def mask_kind_of(objective: str) -> MaskKind:
    """Return the attention mask of an objective."""
    return OBJECTIVES[objective].mask_kind


def is_encoder(objective: str) -> bool:
    """Whether an objective trains an encoder."""
    return OBJECTIVES[objective].product == "encoder"


def released_objective(product: Product) -> str:
    """Return the objective that released models of a kind are evaluated with."""
    return next(name for name in RELEASED_OBJECTIVES if OBJECTIVES[name].product == product)


def names_of(product: Product) -> str:
    """Return the objectives that train an encoder or a decoder, joined by "or"."""
    return " or ".join(row.name for row in _ROWS if row.product == product)
