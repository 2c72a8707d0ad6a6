"""Argparse types of the suites' flags, in addition to those in ``megatron_ettin.cli``, and the choice of a device."""

from __future__ import annotations

import argparse
import math

from megatron_ettin.cli import positive
from megatron_ettin.errors import ConfigError

MIN_LENGTH = 8
"""Smallest input length in tokens: room for a few words besides the special tokens."""


def number(text: str) -> float:
    """Parse a finite number."""
    try:
        parsed = float(text)
    except ValueError:
        parsed = math.nan
    if not math.isfinite(parsed):
        raise argparse.ArgumentTypeError(f"{text} is not a number")
    return parsed


def above_zero(text: str) -> float:
    """Parse a number greater than 0."""
    parsed = number(text)
    if parsed <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return parsed


def not_negative(text: str) -> float:
    """Parse a number greater than or equal to 0."""
    parsed = number(text)
    if parsed < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return parsed


def share(text: str) -> float:
    """Parse a number between 0 and 1, both excluded."""
    parsed = number(text)
    if not 0 < parsed < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return parsed


def token_length(text: str) -> int:
    """Parse the maximum length of an input in tokens."""
    length = positive(text)
    if length < MIN_LENGTH:
        raise argparse.ArgumentTypeError(f"{text} is below {MIN_LENGTH}, too short for text between special tokens")
    return length


def choose_device(requested: str) -> str:
    """Return ``cpu`` or ``cuda`` for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: a GPU is requested and PyTorch finds none.
    """
    if requested == "cpu":
        return requested
    import torch

    has_gpu = torch.cuda.is_available()
    if requested == "cuda" and not has_gpu:
        raise ConfigError("--device cuda: PyTorch finds no GPU")
    return "cuda" if has_gpu else "cpu"
