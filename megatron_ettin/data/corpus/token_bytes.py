"""The bytes that each token of a byte-level BPE stands for, and what can be read off them.

The alphabet is GPT-2's: printable characters of Latin-1 stand for themselves, the other bytes for the characters from
U+0100 on, in order.
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

WHITESPACE = b" \t\n\r\v\f"
_ENDS = b".!?"
_CLOSERS = b"\"')]}"
_WIDE_ENDS = ("\u3002", "\uff01", "\uff1f", "\u2026", "\u0964", "\u061f", "\u06d4")
"""Full stops and question marks of scripts beyond ASCII."""


@cache
def byte_alphabet() -> Mapping[str, int]:
    """Return the byte that each character of the alphabet stands for."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    shown = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
    return MappingProxyType(shown)


def token_bytes(tokenizer: TokenizerFiles, flag: str) -> list[bytes | None]:
    """Return the bytes of each token id; None for special tokens and ids that stand for nothing.

    Args:
        tokenizer: the tokenizer.
        flag: what needs to know, for the message.

    Raises:
        ConfigError: it is no byte-level BPE.
    """
    content: dict[str, Any] = json.loads(tokenizer.content)
    if not _is_byte_level(content):
        raise ConfigError(f"{flag}: needs a byte-level BPE, and {tokenizer.path} is none")
    alphabet = byte_alphabet()
    found: list[bytes | None] = [None] * tokenizer.size
    for token, number in content["model"]["vocab"].items():
        if all(character in alphabet for character in token):
            found[number] = bytes(alphabet[character] for character in token)
    for added in content["added_tokens"]:
        # Added tokens stand for their own text, not for letters of the alphabet.
        found[added["id"]] = None if added["special"] else added["content"].encode()
    return found


def word_starts(tokenizer: TokenizerFiles, flag: str) -> NDArray[np.bool_]:
    """Return which token ids begin a word: those that begin with whitespace; all others go on with the one before.

    So a word carries the space before it and the punctuation behind it, and no token inside a character of several
    bytes begins one. Tokens that are no text begin a word of their own.
    """
    known = token_bytes(tokenizer, flag)
    return np.array([told is None or told[:1] in _whitespace() for told in known], dtype=bool)


def sentence_ends(tokenizer: TokenizerFiles, flag: str) -> NDArray[np.bool_]:
    """Return which token ids end a sentence: by a full stop, exclamation or question mark, or a line's end inside."""
    return np.array([told is not None and _ends_sentence(told) for told in token_bytes(tokenizer, flag)], dtype=bool)


def _ends_sentence(told: bytes) -> bool:
    bare = told.rstrip(_CLOSERS)
    return b"\n" in told or bare[-1:] in {bytes([end]) for end in _ENDS} or bare.endswith(
        tuple(end.encode() for end in _WIDE_ENDS)
    )  # fmt: skip


@cache
def _whitespace() -> frozenset[bytes]:
    return frozenset(bytes([byte]) for byte in WHITESPACE)


def _is_byte_level(content: Mapping[str, Any]) -> bool:
    if content.get("model", {}).get("type") != "BPE":
        return False
    parts = [content.get(name) or {} for name in ("pre_tokenizer", "decoder")]
    inner = [step for part in parts for step in (*part.get("pretokenizers", ()), *part.get("decoders", ()))]
    return any(part.get("type") == "ByteLevel" for part in (*parts, *inner))
