"""The special tokens of a tokenizer by their roles, for preprocessing, training, conversion and release alike.

``tokenizer_config.json`` and ``special_tokens_map.json`` name the token of a role. Where neither does, it is the token
[CLS], [SEP], [PAD], [MASK] or [UNK], if the vocabulary has it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.errors import ConfigError

TOKENIZER_FILE = "tokenizer.json"
COMPANION_FILES = ("tokenizer_config.json", "special_tokens_map.json")
"""Files that name special tokens; the first takes precedence."""

EndTokens = int | tuple[int, ...]
"""Ids of the tokens that preprocessing may have appended to a document."""

_NAMES = {
    "cls": ("cls", "bos"),
    "bos": ("bos", "cls"),
    "sep": ("sep", "eos"),
    "eos": ("eos", "sep"),
    "pad": ("pad",),
    "mask": ("mask",),
    "unk": ("unk",),
}
"""The names, by precedence, under which a file names the token of each role, such as ``cls_token``."""

_LITERAL = {role: f"[{names[-1 if role in ('bos', 'eos') else 0].upper()}]" for role, names in _NAMES.items()}
"""The token of each role that no file names."""


@dataclass(frozen=True)
class SpecialToken:
    """A special token."""

    text: str
    id: int


def token_ids(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Return the id of every token of a tokenizer.json, including added tokens.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is not a tokenizer of the tokenizers library.
    """
    vocabulary = tokenizer["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram lists (token, score) pairs in the order of their ids
        vocabulary = {token: number for number, (token, _) in enumerate(vocabulary)}
    # The tokenizers library ignores the id of an added token that the vocabulary contains.
    return {**{added["content"]: added["id"] for added in tokenizer["added_tokens"]}, **vocabulary}


def role_texts(folder: Path) -> dict[str, str]:
    """Return the text of the token of each role, whether the vocabulary has it or not.

    The roles are ``cls`` (start of a text), ``sep`` (end of a text), ``pad``, ``mask`` and ``unk``, and ``bos`` and
    ``eos``, which differ from ``cls`` and ``sep`` only where the files name both.

    Raises:
        ConfigError: a companion file is not a JSON object.
    """
    named: dict[str, str] = {}
    for file in reversed(COMPANION_FILES):
        if (folder / file).is_file():
            named |= _named_tokens(read_json(folder / file))
    return {
        role: next((named[name] for name in names if name in named), _LITERAL[role]) for role, names in _NAMES.items()
    }


def literal_texts() -> dict[str, str]:
    """Return the text of the token of each role where no file names one."""
    return dict(_LITERAL)


def resolve_roles(texts: Mapping[str, str], ids: Mapping[str, int]) -> dict[str, SpecialToken]:
    """Return the special tokens that the vocabulary has, by role.

    Args:
        texts: text of the token of each role.
        ids: id of each token.
    """
    return {role: SpecialToken(text, ids[text]) for role, text in texts.items() if text in ids}


def _named_tokens(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the text of each ``NAME_token``, which is a string or an object with the key ``content``."""
    named = {}
    for key, value in content.items():
        text = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(text, str):
            named[key.removesuffix("_token")] = text
    return named


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ConfigError: the file is missing or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not JSON"
        raise ConfigError(f"{path}: {reason}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: is not a JSON object")
    return content
