"""The words in which the variants of a sentence differ, and the tokens that they are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile


def differing_spans(variants: Sequence[str]) -> list[tuple[int, int]]:
    """Return for each variant the characters, whole words, from the first to the last in which they differ.

    The space before them is among them: to some tokenizers it belongs to the word, to others, for some words, not.

    >>> differing_spans(["that he was sure", "that they were sure"])
    [(4, 11), (4, 14)]
    """
    start = _num_common(variants)
    room = min(map(len, variants)) - start
    after = min(room, _num_common([variant[::-1] for variant in variants]))
    while start and variants[0][start - 1].isalnum():
        start -= 1
    if start and variants[0][start - 1] == " ":
        start -= 1
    while after and variants[0][len(variants[0]) - after].isalnum():
        after -= 1
    return [(start, len(variant) - after) for variant in variants]


def _num_common(texts: Sequence[str]) -> int:
    """Return how many characters all texts begin with alike."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False)))


def tokens_in(offsets: Sequence[tuple[int, int]], span: tuple[int, int]) -> range:
    """Return the positions of the tokens that hold any character of a span; special tokens hold none."""
    held = [position for position, (start, end) in enumerate(offsets) if start < span[1] and end > span[0]]
    return range(held[0], held[-1] + 1) if held else range(0)
