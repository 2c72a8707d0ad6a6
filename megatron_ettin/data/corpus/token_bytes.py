"""The bytes of each token of a byte-level BPE, and the word starts and sentence ends that follow from them.

The alphabet is GPT-2's: printable Latin-1 characters represent themselves, and the other bytes are represented by the
characters from U+0100, in order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.errors import ConfigError

_WHITESPACE = b" \t\n\r\v\f"
_CLOSERS = b"\"')]}"
_SENTENCE_ENDS = tuple(mark.encode() for mark in ".!?\u3002\uff01\uff1f\u2026\u0964\u061f\u06d4")
"""Full stops, exclamation and question marks, also of other scripts."""


@cache
def byte_alphabet() -> Mapping[str, int]:
    """Return the byte that each character of the alphabet represents."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    shown = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
    return MappingProxyType(shown)


def token_bytes(tokenizer: TokenizerFiles, flag: str) -> list[bytes | None]:
    """Return the bytes of each token id; None for special tokens and unused ids.

    Args:
        tokenizer: the tokenizer.
        flag: the flag that needs the bytes, for the message.

    Raises:
        ConfigError: the tokenizer is not a byte-level BPE.
    """
    content: dict[str, Any] = json.loads(tokenizer.content)
    if not _is_byte_level(content):
        raise ConfigError(f"{flag}: needs a byte-level BPE, which {tokenizer.path} is not")
    alphabet = byte_alphabet()
    spelled: list[bytes | None] = [None] * tokenizer.size
    for token, number in content["model"]["vocab"].items():
        if all(character in alphabet for character in token):
            spelled[number] = bytes(alphabet[character] for character in token)
    for added in content["added_tokens"]:
        # Added tokens are spelled in plain text, not in the alphabet.
        spelled[tokenizer.ids[added["content"]]] = added["content"].encode()
    for number in tokenizer.special_ids:
        spelled[number] = None
    return spelled


def word_starts(tokenizer: TokenizerFiles, flag: str) -> NDArray[np.bool_]:
    """Return which token ids start a word: those that start with whitespace; all others continue a word.

    A word thus includes the space before it and the punctuation after it, and no token inside a multi-byte character
    starts one. Tokens without text start a word.
    """
    spaces = tuple(bytes([byte]) for byte in _WHITESPACE)
    return np.array([text is None or text.startswith(spaces) for text in token_bytes(tokenizer, flag)], dtype=bool)


def sentence_ends(tokenizer: TokenizerFiles, flag: str) -> NDArray[np.bool_]:
    """Return which token ids end a sentence: with a full stop, exclamation or question mark, or with a line break."""
    return np.array([text is not None and _ends_sentence(text) for text in token_bytes(tokenizer, flag)], dtype=bool)


def _ends_sentence(text: bytes) -> bool:
    return b"\n" in text or text.rstrip(_CLOSERS).endswith(_SENTENCE_ENDS)


def _is_byte_level(content: Mapping[str, Any]) -> bool:
    if content.get("model", {}).get("type") != "BPE":
        return False
    parts = [content.get(name) or {} for name in ("pre_tokenizer", "decoder")]
    inner = [step for part in parts for step in (*part.get("pretokenizers", ()), *part.get("decoders", ()))]
    return any(part.get("type") == "ByteLevel" for part in (*parts, *inner))
