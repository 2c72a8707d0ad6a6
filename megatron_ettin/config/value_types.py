"""Values with a text form of their own, parsed once: token counts, splits, mask schedules and step ranges."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar, Self

TOKEN_RULE = "must be a whole number of tokens, in figures or with a suffix: 400M, 8.5B, 1.7T"
TEXT_RULE = "must be text (in quotes where YAML would read something else)"

_SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_TOKEN_COUNT = re.compile(r"(\d+(?:\.\d*)?(?:e\+?\d{1,2})?)([KMBT]?)", re.ASCII | re.IGNORECASE)


def parse_token_count(written: object) -> int | None:
    """Return a number of tokens, or None where ``written`` is not one; suffixes are powers of a thousand.

    >>> parse_token_count("8.5B"), parse_token_count(4096), parse_token_count("1.5")
    (8500000000, 4096, None)
    """
    if isinstance(written, bool) or not isinstance(written, int | float | str):
        return None
    # The shortest text of a float is what a YAML file contains: 8.5e+9.
    match = _TOKEN_COUNT.fullmatch(str(written))
    if match is None:
        return None
    count = Decimal(match[1]) * _SUFFIXES[match[2].upper()]
    return int(count) if count == count.to_integral_value() else None


def format_token_count(count: int) -> str:
    """Return the shortest text that is parsed as the same number of tokens.

    >>> format_token_count(8_500_000_000), format_token_count(16_666_666_667)
    ('8.5B', '16666666667')
    """
    spellings = [str(count)]
    for suffix, size in _SUFFIXES.items():
        if count >= size > 1:
            spellings.append(f"{(Decimal(count) / size).normalize():f}{suffix}")
    return min(spellings, key=len)


@dataclass(frozen=True)
class TextValue(ABC):
    """A parsed value, which JSON and YAML keep as the text that it was written as."""

    text: str
    takes_words: ClassVar[bool] = False
    """Whether the flag takes several words, and the YAML key a list."""

    @classmethod
    @abstractmethod
    def parse(cls, written: object) -> Self:
        """Return the value.

        Raises:
            ValueError: with the rule that ``written`` breaks.
        """

    def __str__(self) -> str:
        """Return the text."""
        return self.text

    def __bool__(self) -> bool:
        """Whether anything was written."""
        return bool(self.text)


def check_text(written: object) -> str:
    """Return text as it is.

    Raises:
        ValueError: it is not text, or contains a null character, which no path can.
    """
    if not isinstance(written, str) or "\0" in written:
        raise ValueError(TEXT_RULE)
    return written


def plain_value(value: object) -> object:
    """Return a field's value as JSON and YAML have it."""
    return str(value) if isinstance(value, TextValue) else value


@dataclass(frozen=True)
class Split(TextValue):
    """Parts of the documents for training, validation and test; missing ones are 0, as in Megatron."""

    parts: tuple[float, float, float]
    """As written; they need not sum to 1."""

    @classmethod
    def parse(cls, written: object) -> Self:
        """Read A,B,C; see :meth:`TextValue.parse`."""
        text = check_text(written)
        try:
            parts = [float(part) for part in text.split(",")]
        except ValueError:
            parts = []
        # nan fails both comparisons, an infinite part the second.
        if not 1 <= len(parts) <= 3 or not all(part >= 0 for part in parts) or not 0 < sum(parts) < float("inf"):
            raise ValueError("must be up to three parts such as 969,30,1, none negative and not all 0")
        training, validation, test = (*parts, 0.0, 0.0)[:3]
        return cls(text, (training, validation, test))

    @property
    def shares(self) -> list[float]:
        """The parts as shares of 1, in megatron-core's arithmetic."""
        total = sum(self.parts)
        return [part / total for part in self.parts]


@dataclass(frozen=True)
class MaskSchedule(TextValue):
    """Share of tokens to mask as a step function of the tokens trained; empty where one share holds throughout."""

    starts: tuple[int, ...] = ()
    """Tokens at which each share takes effect, from 0."""
    shares: tuple[float, ...] = ()

    @classmethod
    def parse(cls, written: object) -> Self:
        """Read TOKENS:SHARE,... or one share; see :meth:`TextValue.parse`."""
        text = check_text(written)
        if not text:
            return cls(text)
        rule = "must be a share above 0 and at most 1, or TOKENS:SHARE,... ascending from 0, such as 0:0.3,250B:0.15"
        try:
            pairs = [part.split(":") for part in (text if ":" in text else f"0:{text}").split(",")]
            entries = [(parse_token_count(tokens), float(share)) for tokens, share in pairs]
        except ValueError:
            raise ValueError(rule) from None
        starts = tuple(start for start, _ in entries if start is not None)
        shares = tuple(share for _, share in entries)
        ascends = len(starts) == len(shares) and starts[0] == 0 and list(starts) == sorted(set(starts))
        if not ascends or not all(0 < share <= 1 for share in shares):
            raise ValueError(rule)
        return cls(text, starts, shares)

    def share_at(self, tokens: int) -> float:
        """Return the share of a step that starts after ``tokens`` trained tokens."""
        return self.shares[bisect_right(self.starts, tokens) - 1]


@dataclass(frozen=True)
class StepRange(TextValue):
    """A range of steps, counted from 1; empty where nothing is written."""

    steps: range = range(1, 1)

    @classmethod
    def parse(cls, written: object) -> Self:
        """Read FIRST:LAST (inclusive) or one step; see :meth:`TextValue.parse`.

        >>> StepRange.parse("10:12").steps, StepRange.parse("7").steps
        (range(10, 13), range(7, 8))
        """
        text = check_text(written)
        if not text:
            return cls(text)
        match = re.fullmatch(r"(\d+)(?::(\d+))?", text)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last:
            raise ValueError("must be FIRST:LAST or one step, counted from 1, such as 10:12")
        return cls(text, range(first, last + 1))
