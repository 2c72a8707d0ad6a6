"""Options of a released model, and the flags they come from."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass

from megatron_ettin.config.objectives import OBJECTIVES, RELEASED_OBJECTIVES, released_objective
from megatron_ettin.errors import ConfigError

SHARD_BYTES = 5_000_000_000
"""Weights are split into files of at most this size, with an index."""

UNKNOWN_LICENSE = "unknown"
"""The Hub's identifier for a model without a stated licence."""

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@dataclass(frozen=True)
class ExportOptions:
    """How to release a checkpoint."""

    dtype: str = ""
    """Type of the released weights; empty keeps the stored one."""
    relabel: str | None = None
    """Release with the class of this objective instead of the trained one."""
    base_only: bool = False
    """Omit head and output layer."""
    license: str = UNKNOWN_LICENSE
    repository: str = "PATH"
    """Where users load it from; named in the model card."""
    revision: str = ""
    """Branch of the repository; empty is main."""
    shard_bytes: int = SHARD_BYTES
    """Largest size of one file of weights."""


def released_as(objective: str, options: ExportOptions) -> tuple[str, bool]:
    """Return the objective whose class a checkpoint is released as, and whether head and output layer are omitted.

    They are omitted where the released class does not compute what the head was trained for.

    Raises:
        ConfigError: the objective is unknown.
    """
    if options.relabel is not None:
        return options.relabel, options.base_only
    if objective not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        raise ConfigError(f"--load: objective {objective!r} of the checkpoint is not one of {known}")
    traits = OBJECTIVES[objective]
    return released_objective(traits.product), options.base_only or not traits.releases_head


def check_license(name: str) -> str:
    """Return a licence identifier of the Hub.

    Raises:
        ConfigError: it is not a valid identifier.
    """
    if not _LICENSE.fullmatch(name):
        raise ConfigError(f"--license {name}: must be an identifier of the Hub such as apache-2.0, mit or other")
    return name


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every release has."""
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="type of the released weights; default: the stored type",
    )
    parser.add_argument(
        "--as",
        dest="relabel",
        choices=RELEASED_OBJECTIVES,
        help=f"release as an encoder ({released_objective('encoder')}) or decoder ({released_objective('decoder')}), "
        "regardless of its training objective; weights are unchanged",
    )
    parser.add_argument(
        "--base-only", action="store_true", help="omit head and output layer: ModernBertModel, ModernBertDecoderModel"
    )
    parser.add_argument(
        "--license", default="unknown", metavar="ID", help="the Hub's licence identifier, for the model card"
    )
