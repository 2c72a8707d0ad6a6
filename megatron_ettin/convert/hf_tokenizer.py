"""Tokenizer files as JSON: which token plays which role, and what each kind of model adds to text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.config.objectives import OBJECTIVES, is_encoder
from megatron_ettin.errors import ConfigError

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
TOKENIZER_FILES = (TOKENIZER_FILE, CONFIG_FILE, "special_tokens_map.json")


@dataclass(frozen=True)
class SpecialToken:
    """A token with a role."""

    text: str
    id: int


@dataclass(frozen=True)
class SpecialTokens:
    """The tokens with a role; those without a default are needed by every model."""

    cls: SpecialToken
    sep: SpecialToken
    pad: SpecialToken
    mask: SpecialToken | None = None
    unk: SpecialToken | None = None

    def named(self) -> dict[str, SpecialToken]:
        """Return those that exist by their role."""
        return {role: token for role, token in vars(self).items() if token is not None}


def read_special_tokens(folder: Path, objective: str, vocab_size: int) -> SpecialTokens:
    """Find the special tokens of a tokenizer folder.

    A role is named by the tokenizer's config where that says so, and is played by [CLS], [SEP], ... where it does not.

    Raises:
        ConfigError: a file is missing or broken, a needed token is not there, or an id lies outside the vocabulary.
    """
    ids = _token_ids(read_json(folder / TOKENIZER_FILE))
    named = _named_roles(folder)
    found = {}
    for role in ("cls", "sep", "pad", "mask", "unk"):
        text = named.get(role, f"[{role.upper()}]")
        if text in ids:
            found[role] = SpecialToken(text, ids[text])
    for role in OBJECTIVES[objective].special_tokens:
        if role not in found:
            text = named.get(role, f"[{role.upper()}]")
            raise ConfigError(f"{folder / TOKENIZER_FILE}: has no {text} token, which {objective} models need")
    largest = max(ids.values())
    if largest >= vocab_size:
        rule = f"token id {largest} lies outside the model's vocabulary of {vocab_size}"
        raise ConfigError(f"{folder / TOKENIZER_FILE}: {rule}")
    return SpecialTokens(**found)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the files that make up a tokenizer into a new folder.

    Raises:
        ConfigError: there is no tokenizer.json.
    """
    if not (source / TOKENIZER_FILE).is_file():
        raise ConfigError(f"{source}: has no {TOKENIZER_FILE}; only tokenizers of the tokenizers library can be taken")
    target.mkdir()
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def write_release_tokenizer(
    source: Path, target: Path, objective: str, tokens: SpecialTokens, max_positions: int
) -> None:
    """Write the tokenizer as users of a released model need it: it adds to a text what training added to a document.

    An encoder's text becomes [CLS] text [SEP]. A decoder's becomes [CLS] text: the end is for the model to say.
    """
    tokenizer = read_json(source / TOKENIZER_FILE)
    tokenizer["truncation"] = tokenizer["padding"] = None
    tokenizer["post_processor"] = _post_processor(objective, tokens)
    for added in tokenizer.get("added_tokens", []):
        if tokens.mask is not None and added["content"] == tokens.mask.text:
            # A word's token carries the space before it, so the mask that stands for a word takes that space.
            added["lstrip"] = True
    config = _tokenizer_config(objective, tokens, max_positions)
    roles = {key: value for key, value in config.items() if key.endswith("_token")}
    write_json(target / TOKENIZER_FILE, tokenizer)
    write_json(target / CONFIG_FILE, config)
    write_json(target / "special_tokens_map.json", roles)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ConfigError: the file is missing or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not JSON"
        raise ConfigError(f"{path}: {reason}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no JSON object")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object as transformers does: indented, sorted as given, UTF-8."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _token_ids(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = tokenizer.get("model", {}).get("vocab", {})
    if not isinstance(vocabulary, dict):  # Unigram lists (text, score) pairs in the order of their ids
        vocabulary = {text: i for i, (text, _) in enumerate(vocabulary)}
    return {**vocabulary, **{added["content"]: added["id"] for added in tokenizer.get("added_tokens", [])}}


def _named_roles(folder: Path) -> dict[str, str]:
    """Return the text of each role that the tokenizer's own config names."""
    named = {}
    for file in reversed(TOKENIZER_FILES[1:]):
        if (folder / file).is_file():
            for key, value in read_json(folder / file).items():
                text = value.get("content") if isinstance(value, dict) else value
                if key.endswith("_token") and isinstance(text, str):
                    named[key.removesuffix("_token")] = text
    return named


def _post_processor(objective: str, tokens: SpecialTokens) -> dict[str, Any]:
    """Return tokenizer.json's template for what stands around one text, or two."""

    def special(token: SpecialToken) -> dict[str, Any]:
        return {"SpecialToken": {"id": token.text, "type_id": 0}}

    first, second = ({"Sequence": {"id": text, "type_id": 0}} for text in "AB")
    start, end = [special(tokens.cls)], [special(tokens.sep)] if is_encoder(objective) else []
    used = [tokens.cls, tokens.sep] if is_encoder(objective) else [tokens.cls]
    return {
        "type": "TemplateProcessing",
        "single": [*start, first, *end],
        "pair": [*start, first, *end, second, *end],
        "special_tokens": {t.text: {"id": t.text, "ids": [t.id], "tokens": [t.text]} for t in used},
    }


def _tokenizer_config(objective: str, tokens: SpecialTokens, max_positions: int) -> dict[str, Any]:
    of_decoder = {} if is_encoder(objective) else {"bos_token": tokens.cls.text, "eos_token": tokens.sep.text}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_positions,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        # Text is continued at its right end, where a decoder must not meet padding.
        "padding_side": "right" if is_encoder(objective) else "left",
        **{f"{role}_token": token.text for role, token in tokens.named().items()},
        **of_decoder,
    }
