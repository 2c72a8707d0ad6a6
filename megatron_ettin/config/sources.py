"""The corpora that ``--data-path`` names: one, several, or a blend with weights or token targets."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePath
from typing import ClassVar, Self

from megatron_ettin.config.value_types import TextValue, format_token_count, parse_token_count

_RULE = (
    "must be PREFIX, PREFIX PREFIX ..., or WEIGHT PREFIX WEIGHT PREFIX ...; in YAML also a list of "
    "{path: PREFIX, weight: X} or {path: PREFIX, tokens: 5B}"
)
_SUFFIXES = "KMBTkmbt"


@dataclass(frozen=True)
class SourceRequest:
    """One corpus of a blend and its requested amount."""

    path: str
    """Prefix of the .bin/.idx pair."""
    weight: Fraction | None = None
    """Share of the rows, relative to the other weights."""
    tokens: int | None = None
    """Target in tokens, relative to the other targets."""


@dataclass(frozen=True)
class Sources(TextValue):
    """The corpora of a run, in order; shell-quoted text where a path contains spaces.

    ``0.6 A 0.4 B`` gives weights by rows, ``5B A 2B B`` (numbers with a suffix) token targets, and ``A B`` takes all
    rows of each.
    """

    requests: tuple[SourceRequest, ...] = ()
    takes_words: ClassVar[bool] = True

    @classmethod
    def parse(cls, written: object) -> Self:
        """Read the text, the words of the flag, or the list of a YAML file; see :meth:`TextValue.parse`."""
        text = _join(written)
        if text is None:
            raise ValueError(_RULE)
        words = _words(text)
        if len(words) > 1 and not _is_blend(words) and any(_amount(word) is not None for word in words):
            raise ValueError(_RULE)
        requests = _weighted(words) if _is_blend(words) else tuple(SourceRequest(word) for word in words)
        for request in requests:
            if (request.weight is not None and request.weight <= 0) or request.tokens == 0:
                raise ValueError(f"the weight of {request.path} must be above 0")
        if len({request.tokens is None for request in requests}) > 1:
            raise ValueError("give weights or token targets, not both")
        return cls(text, requests)


def source_names(paths: Mapping[int, str]) -> dict[int, str]:
    """Return the names of corpora in metrics and files: the last part of their path, numbered where it repeats.

    Args:
        paths: path of each corpus by its number in the blend.
    """
    last = {number: PurePath(path).name for number, path in paths.items()}
    times = Counter(last.values())
    return {number: name if times[name] == 1 else f"{name}_{number}" for number, name in last.items()}


def _join(written: object) -> str | None:
    """Return the sources as one text, or None where they are neither text, words nor a list of mappings."""
    if isinstance(written, str):
        return written if "\0" not in written else None
    if not isinstance(written, list) or not written:
        return None
    if all(isinstance(word, str | int | float) and not isinstance(word, bool) for word in written):
        words = [str(word) for word in written]
        if len(words) == 1 and (len(_words(words[0])) == 1 or _is_blend(_words(words[0]))):
            return words[0]
        return shlex.join(words)
    entries = [_entry_words(entry) for entry in written]
    if None in entries:
        return None
    return shlex.join(word for entry in entries for word in entry or ())


def _entry_words(entry: object) -> list[str] | None:
    """Return amount and path of one entry of a YAML list, or None where it has another form."""
    if not isinstance(entry, dict) or "path" not in entry:
        return None
    amounts = [key for key in entry if key != "path"]
    if amounts == ["weight"] and _number(str(entry["weight"])) is not None:
        return [str(entry["weight"]), str(entry["path"])]
    if amounts == ["tokens"]:
        tokens = parse_token_count(entry["tokens"])
        if tokens is not None:
            return [_with_suffix(tokens), str(entry["path"])]
    return None


def _with_suffix(tokens: int) -> str:
    """Return a token count as text with a suffix, which distinguishes it from a weight."""
    spelled = format_token_count(tokens)
    return spelled if spelled[-1] in _SUFFIXES else f"{tokens // 1000}.{tokens % 1000:03d}K"


def _words(data_path: str) -> list[str]:
    try:
        return shlex.split(data_path)
    except ValueError:  # a lone quote in a file's name
        return [data_path]


def _is_blend(words: Sequence[str]) -> bool:
    numbers = words[::2]
    return len(words) >= 2 and len(words) % 2 == 0 and all(_amount(word) is not None for word in numbers)


def _weighted(words: Sequence[str]) -> tuple[SourceRequest, ...]:
    requests = []
    for amount, path in zip(words[::2], words[1::2], strict=True):
        if amount[-1] in _SUFFIXES:
            requests.append(SourceRequest(path, tokens=parse_token_count(amount)))
        else:
            requests.append(SourceRequest(path, weight=_number(amount)))
    return tuple(requests)


def _amount(word: str) -> Fraction | int | None:
    return parse_token_count(word) if word and word[-1] in _SUFFIXES else _number(word)


def _number(word: str) -> Fraction | None:
    try:
        return Fraction(word) if "/" not in word and "_" not in word else None
    except (ValueError, ZeroDivisionError):
        return None
