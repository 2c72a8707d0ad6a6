"""Types of the suites' flags for argparse, beside those that all tools share."""

from __future__ import annotations

import argparse
import math

from megatron_ettin.cli import positive
from megatron_ettin.errors import ConfigError

MIN_LENGTH = 8
"""Tokens of an input that hold a word or two beside the special ones."""


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
    """Parse a number above 0."""
    parsed = number(text)
    if parsed <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return parsed


def not_negative(text: str) -> float:
    """Parse a number that is 0 or above."""
    parsed = number(text)
    if parsed < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return parsed


def share(text: str) -> float:
    """Parse a number between 0 and 1, neither of them."""
    parsed = number(text)
    if not 0 < parsed < 1:
        raise argparse.ArgumentTypeError(f"{text} does not lie between 0 and 1")
    return parsed


def token_length(text: str) -> int:
    """Parse how many tokens of an input are read."""
    length = positive(text)
    if length < MIN_LENGTH:
        raise argparse.ArgumentTypeError(f"{text} is below {MIN_LENGTH}, which special tokens nearly fill")
    return length


def choose_device(wanted: str) -> str:
    """Return cpu or cuda.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    if wanted == "cpu":
        return wanted
    import torch

    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ConfigError("--device cuda: torch sees no GPU here")
    return "cuda" if has_gpu else "cpu"
