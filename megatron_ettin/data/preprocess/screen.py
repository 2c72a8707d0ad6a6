"""Decide, by properties of tokenizer and text, which texts gigatoken encodes as the tokenizers library does.

The two differ in added tokens (gigatoken ignores single_word, and matches all of them at once in the raw text) and in
characters that their Unicode versions treat differently. Both are rare in text and cheap to detect, so such texts go
to the tokenizers library one by one. What cannot be decided text by text goes to that library as a whole.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGE_RANGE, _EDGE, _STEP = 256, 32, 16
"""A range of 256 or more characters of one category is probed at both ends and at every 16th character."""
_NEIGHBORS = "a1!\n"
"""A letter, a digit, a punctuation mark and white space: what a character attaches to shows its class."""
_NEVER_IN_UTF8 = frozenset([0xC0, 0xC1, *range(0xF5, 0x100)])
_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}


class Unsupported(ValueError):
    """The two libraries may differ on any text; the message is the reason."""


class TextScreen:
    """Finds the texts that only the tokenizers library encodes exactly.

    Attributes:
        uncertain_characters: characters on which the libraries differ, of those that Python's Unicode version knows.
    """

    def __init__(self, tokenizer: dict[str, Any]) -> None:
        """Examine the content of a tokenizer.json.

        Raises:
            Unsupported: gigatoken cannot encode for this tokenizer.
        """
        from gigatoken.gigatoken_rs import _SubstringMatcher

        self._is_nfc = _check_model(tokenizer)
        added = [token for token in tokenizer["added_tokens"] if token["content"]]
        raw = [token["content"] for token in added if not token["normalized"]]
        self._raw = _SubstringMatcher(raw) if raw else None
        rare = _rare_tokens(tokenizer, added)
        self._rare = _SubstringMatcher(rare) if rare else None
        self._uncertain, self.uncertain_characters = _uncertain_characters(
            json.dumps(_boundary_tokenizer(tokenizer)), self._is_nfc
        )
        if self._is_nfc:
            for token in added:
                if token["normalized"] and not self._is_stable(token["content"]):
                    raise Unsupported(f"the normalizer changes its added token {token['content']!r}")

    def prepare(self, text: str) -> str | None:
        """Return the text to give to gigatoken, or None where the tokenizers library must encode it."""
        if self._rare is not None and self._rare.present(text):
            return None
        if text.isascii():
            return text
        if self._is_uncertain(text):
            return None
        if not self._is_nfc or unicodedata.is_normalized("NFC", text):
            return text
        # The library matches normalized added tokens after NFC and the others before it.
        normalized = unicodedata.normalize("NFC", text)
        found = [self._rare and self._rare.present(normalized)]
        found += [self._raw and self._raw.present(each) for each in (text, normalized)]
        return None if any(found) else normalized

    def _is_stable(self, text: str) -> bool:
        return unicodedata.is_normalized("NFC", text) and not self._is_uncertain(text)

    def _is_uncertain(self, text: str) -> bool:
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        return bool(self._uncertain.take(points).any())


def _check_model(tokenizer: dict[str, Any]) -> bool:
    """Return whether the tokenizer normalizes to NFC.

    Raises:
        Unsupported: a part of the tokenizer is one that gigatoken ignores or encodes in another way.
    """
    model = tokenizer["model"]
    if model.get("type", "BPE") != "BPE":
        raise Unsupported(f"its model is {model['type']}")
    for option in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise Unsupported(f"its model has a {option}")
    _check_added_tokens(tokenizer)
    normalizers = list(_flat(tokenizer.get("normalizer"), "normalizers"))
    if model.get("byte_fallback"):
        known = all(step in ({"type": "Prepend", "prepend": "\u2581"}, _SPACES) for step in normalizers)
        spaced = any(set(token["content"]) & set(" \u2581") for token in tokenizer["added_tokens"])
        if not known or spaced:
            raise Unsupported("it has a normalizer or added tokens that gigatoken treats in another way")
        return False
    if any(step["type"] != "NFC" for step in normalizers):
        raise Unsupported("its normalizer is not NFC")
    steps = list(_flat(tokenizer.get("pre_tokenizer"), "pretokenizers"))
    if not steps or steps[-1]["type"] != "ByteLevel":
        raise Unsupported("its pre-tokenizer is not ByteLevel")
    letters = _byte_letters()
    if any(letters[byte] not in model["vocab"] for byte in range(256) if byte not in _NEVER_IN_UTF8):
        raise Unsupported("its vocabulary lacks a byte")
    return bool(normalizers)


def _check_added_tokens(tokenizer: dict[str, Any]) -> None:
    """Refuse added tokens whose id is not the only one of their text.

    Raises:
        Unsupported: the libraries would choose different ids.
    """
    vocabulary = tokenizer["model"]["vocab"]
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    if len(ids) < len(tokenizer["added_tokens"]):
        raise Unsupported("an added token is listed twice")
    if any(vocabulary.get(content, number) != number for content, number in ids.items()):
        raise Unsupported("an added token has another id in the vocabulary")


def _flat(step: dict[str, Any] | None, name: str) -> Iterator[dict[str, Any]]:
    """Yield the steps of a normalizer or pre-tokenizer, which may be nested sequences."""
    if step is None:
        return
    if step["type"] == "Sequence":
        for inner in step[name]:
            yield from _flat(inner, name)
    else:
        yield step


def _rare_tokens(tokenizer: dict[str, Any], added: Sequence[dict[str, Any]]) -> list[str]:
    """Return the added tokens that gigatoken may match in other places than the library."""
    steps = _flat(tokenizer.get("pre_tokenizer"), "pretokenizers")
    if tokenizer["model"].get("byte_fallback") or any(step.get("add_prefix_space") for step in steps):
        return [token["content"] for token in added]  # the text after a token may get a space
    normalized = [token["content"] for token in added if token["normalized"]]
    return [
        token["content"]
        for token in added
        if token["single_word"]
        or token["lstrip"]
        or token["rstrip"]
        # The library matches tokens that are not normalized first, gigatoken all at once.
        or (not token["normalized"] and any(_can_overlap(token["content"], other) for other in normalized))
    ]


def _can_overlap(a: str, b: str) -> bool:
    """Whether occurrences of two different texts can share characters."""
    if a in b or b in a:
        return True
    shorter = min(len(a), len(b))
    return any(a[-n:] == b[:n] or b[-n:] == a[:n] for n in range(1, shorter))


def _boundary_tokenizer(tokenizer: dict[str, Any]) -> dict[str, Any] | None:
    """Return a tokenizer with the same rules whose ids show where words begin; None without a pre-tokenizer.

    Its only merges join one of ``_NEIGHBORS`` with the byte before or after it.
    """
    if tokenizer["model"].get("byte_fallback"):
        return None
    letters = _byte_letters()
    neighbors = [letters[ord(letter)] for letter in _NEIGHBORS]
    merges = [(a, b) for a in neighbors for b in letters] + [(a, b) for a in letters for b in neighbors]
    merges = list(dict.fromkeys(merges))
    tokens = dict.fromkeys([*letters, *(a + b for a, b in merges)])
    model = {
        **{name: value for name, value in tokenizer["model"].items() if name not in ("vocab", "merges")},
        "unk_token": None,
        "vocab": {token: number for number, token in enumerate(tokens)},
        "merges": [list(pair) for pair in merges],
    }
    kept = {name: tokenizer.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")}
    return {"version": "1.0", **kept, "added_tokens": [], "post_processor": None, "model": model}


@lru_cache(maxsize=1)
def _byte_letters() -> list[str]:
    """Return the character that stands for each byte in a byte-level vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


@lru_cache(maxsize=32)
def _uncertain_characters(boundary_tokenizer: str, is_nfc: bool) -> tuple[NDArray[np.bool_], str]:
    """Return for each code point whether the two libraries may treat it differently, and the known ones of those.

    Characters unknown to Python's Unicode version are uncertain; of known ones, those on which the ids of words or of
    normalized text differ. Unicode never changes how two assigned characters compose.

    Raises:
        Unsupported: the libraries split words differently at an ASCII character.
    """
    if boundary_tokenizer == "null":
        return np.zeros(sys.maxunicode + 1, np.bool_), ""
    comparison = _Comparison(boundary_tokenizer)
    forms = ("{0}{1}", "{1}{0}", "{0}{1}{0}")
    ascii_texts = [form.format(near, chr(letter)) for near in _NEIGHBORS for letter in range(128) for form in forms]
    if places := comparison.differing(ascii_texts):
        raise Unsupported(f"gigatoken splits {ascii_texts[places[0]]!r} into other words")
    ranges = _assigned_ranges()
    uncertain = np.ones(sys.maxunicode + 1, np.bool_)
    for start, end in ranges:
        uncertain[start:end] = False
    probes = [
        (point, "".join(f"{near}{chr(point)}" for near in _NEIGHBORS))
        for start, end in ranges
        for point in _probed(start, end)
    ]
    if is_nfc:
        probes += _normalization_probes(ranges)
        uncertain[_found(probes, comparison.normalized_differently)] = True
    uncertain[_found(probes, comparison.differing)] = True
    for start, end in ranges:  # around a differing probe of a large range, up to the next probes
        if end - start >= _LARGE_RANGE:
            for point in start + np.flatnonzero(uncertain[start:end]):
                uncertain[max(start, point - _STEP) : min(end, point + _STEP)] = True
    return uncertain, "".join(chr(point) for start, end in ranges for point in range(start, end) if uncertain[point])


class _Comparison:
    """The two libraries with one tokenizer; methods return the places of texts on which they differ."""

    def __init__(self, tokenizer: str) -> None:
        from gigatoken.gigatoken_rs import load_hf_json
        from tokenizers import Tokenizer, normalizers

        self._fast, self._library = load_hf_json(tokenizer), Tokenizer.from_str(tokenizer)
        self._normalizer = normalizers.NFC()

    def differing(self, texts: Sequence[str]) -> list[int]:
        expected = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [n for n, text in enumerate(texts) if not np.array_equal(self._fast.encode(text), expected[n].ids)]

    def normalized_differently(self, texts: Sequence[str]) -> list[int]:
        """Compare the library's NFC with Python's."""
        normalize = self._normalizer.normalize_str
        return [n for n, text in enumerate(texts) if normalize(text) != unicodedata.normalize("NFC", text)]


def _found(probes: Sequence[tuple[int, str]], find: Callable[[Sequence[str]], list[int]]) -> list[int]:
    """Return the code points of the probes whose texts are found, alone and in a block of probes."""
    blocks = [probes[start : start + 256] for start in range(0, len(probes), 256)]
    points = []
    for number in find(["".join(text for _, text in block) for block in blocks]):
        points += [blocks[number][place][0] for place in find([text for _, text in blocks[number]])]
    return points


def _assigned_ranges() -> list[tuple[int, int]]:
    """Return the ranges of assigned code points of one category, without surrogates and the private planes."""
    ranges, before = [], "Cn"
    start = 0
    for point in (*range(0x40000), *range(0xE0000, 0xE0201)):
        category = unicodedata.category(chr(point))
        if category != before or point == 0xE0000:
            if before not in ("Cn", "Cs"):
                ranges.append((start, point))
            start, before = point, category
    return ranges


def _probed(start: int, end: int) -> Iterator[int]:
    """Yield the code points of a range beyond ASCII; of a large range, both ends and some between."""
    if end - start < _LARGE_RANGE:
        yield from range(max(start, 128), end)
    else:
        yield from range(start, start + _EDGE)
        yield from range(start + _EDGE, end - _EDGE, _STEP)
        yield from range(end - _EDGE, end)


def _normalization_probes(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, str]]:
    """Return texts that compose, decompose or reorder: every canonical decomposition and every combining mark."""
    probes = []
    for point in (point for start, end in ranges for point in range(start, end)):
        letter = chr(point)
        if unicodedata.combining(letter):
            # Marks of classes 1 and 240 sort before and after nearly every other one.
            probes.append((point, f"a{letter}\u0334\u0345{letter} "))
        parts = unicodedata.normalize("NFD", letter)
        if parts != letter and not 0xAC00 < point < 0xD7A3:  # Hangul syllables are computed
            probes += [(ord(part), f"{parts} {letter}{parts} ") for part in (letter, parts[-1])]
    return probes


def probe_texts(added: Iterable[str], uncertain: str) -> list[str]:
    """Return texts with all added tokens alone, between words and after spaces, and with unusual characters."""
    around = [form.format(token) for token in added for form in ("{}", "a{}b", "a {} b", "a  {0}\n{0}")]
    spaces = ["", " ", "\n\n", "\t \u00a0 x", "a" * 300, "e\u0301\u1100\u1161 \ufb01", "\x00a"]
    return [*spaces, *(f"a{letter}{letter}1 {letter}" for letter in uncertain[:_LARGE_RANGE]), *around]
