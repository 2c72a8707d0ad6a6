"""What a released model is asked to be."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass

from megatron_ettin.config.objectives import OBJECTIVES, RELEASED_OBJECTIVES, released_objective
from megatron_ettin.errors import ConfigError

SHARD_BYTES = 5_000_000_000
"""Weights are split over files of at most this size, with an index beside them."""

UNKNOWN_LICENSE = "unknown"
"""The Hub's word for a model whose owner has not said."""

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@dataclass(frozen=True)
class ExportOptions:
    """What a release is to be."""

    dtype: str = ""
    """Type of the released weights; empty keeps the one they are stored in."""
    relabel: str | None = None
    """Release as a model of this objective, whatever it was trained by."""
    base_only: bool = False
    """Leave out head and output."""
    license: str = UNKNOWN_LICENSE
    repository: str = "PATH"
    """Where users will load it from; stands in the model card."""
    revision: str = ""
    """Which of its branches; empty is main."""
    shard_bytes: int = SHARD_BYTES
    """Largest size of one file of weights."""


def released_as(objective: str, options: ExportOptions) -> tuple[str, bool]:
    """Return the objective whose classes a checkpoint becomes, and whether head and output are left out.

    They are left out where the released class would not compute what the head was trained for.

    Raises:
        ConfigError: the objective is none of this version's.
    """
    if options.relabel is not None:
        return options.relabel, options.base_only
    if objective not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        raise ConfigError(f"--load: objective {objective!r} of the checkpoint is none of {known}")
    traits = OBJECTIVES[objective]
    return released_objective(traits.product), options.base_only or not traits.releases_head


def check_license(name: str) -> str:
    """Return a licence's identifier as the Hub writes it.

    Raises:
        ConfigError: it cannot be one.
    """
    if not _LICENSE.fullmatch(name):
        raise ConfigError(f"--license {name}: must be an identifier of the Hub such as apache-2.0, mit or other")
    return name


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add what every released model can be asked to be."""
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="type of the written weights; without it the type they are stored in",
    )
    parser.add_argument(
        "--as",
        dest="relabel",
        choices=RELEASED_OBJECTIVES,
        help=f"release as an encoder ({released_objective('encoder')}) or decoder ({released_objective('decoder')}), "
        "whatever it was trained by; weights stay as they are",
    )
    parser.add_argument(
        "--base-only", action="store_true", help="leave out head and output: ModernBertModel, ModernBertDecoderModel"
    )
    parser.add_argument(
        "--license", default="unknown", metavar="ID", help="the Hub's identifier of the model's licence, for its card"
    )
