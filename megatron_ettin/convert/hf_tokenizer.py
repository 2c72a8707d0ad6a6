"""Read the special tokens of a tokenizer, and write the tokenizer of a released model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.config.objectives import OBJECTIVES, is_encoder
from megatron_ettin.data.corpus.tokenizer import COMPANION_FILES, TOKENIZER_FILE, token_ids
from megatron_ettin.errors import ConfigError

CONFIG_FILE, ROLES_FILE = COMPANION_FILES


@dataclass(frozen=True)
class SpecialToken:
    """A special token."""

    text: str
    id: int


@dataclass(frozen=True)
class SpecialTokens:
    """Special tokens by their role; those without a default are required."""

    cls: SpecialToken
    sep: SpecialToken
    pad: SpecialToken
    mask: SpecialToken | None = None
    unk: SpecialToken | None = None

    def named(self) -> dict[str, SpecialToken]:
        """Return the tokens that exist, by role."""
        return {role: token for role, token in vars(self).items() if token is not None}


def read_special_tokens(folder: Path, objective: str, vocab_size: int) -> SpecialTokens:
    """Find the special tokens of a tokenizer folder.

    The tokenizer's config may name the token of a role; otherwise it is [CLS], [SEP], and so on.

    Raises:
        ConfigError: a file is missing or broken, a required token is missing, or an id is outside the vocabulary.
    """
    path = folder / TOKENIZER_FILE
    content = read_json(path)
    try:
        ids = token_ids(content)
        largest = max(ids.values())
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ConfigError(f"{path}: is not a tokenizer of the tokenizers library") from None
    named = _named_roles(folder)
    tokens = {}
    for role in ("cls", "sep", "pad", "mask", "unk"):
        text = named.get(role, f"[{role.upper()}]")
        if text in ids:
            tokens[role] = SpecialToken(text, ids[text])
    for role in OBJECTIVES[objective].special_tokens:
        if role not in tokens:
            text = named.get(role, f"[{role.upper()}]")
            raise ConfigError(f"{path}: has no {text} token, which {objective} models need")
    if largest >= vocab_size:
        rule = f"token id {largest} is outside the model's vocabulary of {vocab_size}"
        raise ConfigError(f"{path}: {rule}")
    return SpecialTokens(**tokens)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the files of a tokenizer to a new folder.

    Raises:
        ConfigError: there is no tokenizer.json.
    """
    if not (source / TOKENIZER_FILE).is_file():
        raise ConfigError(f"{source}: has no {TOKENIZER_FILE}; only tokenizers of the tokenizers library are supported")
    target.mkdir()
    for name in (TOKENIZER_FILE, *COMPANION_FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def write_release_tokenizer(
    source: Path, target: Path, objective: str, tokens: SpecialTokens, max_positions: int
) -> None:
    """Write the tokenizer of a released model: it adds the special tokens that training added to a document.

    An encoder's input is [CLS] text [SEP]; a decoder's is [CLS] text, since the model generates the end.
    """
    tokenizer = read_json(source / TOKENIZER_FILE)
    tokenizer["truncation"] = tokenizer["padding"] = None
    tokenizer["post_processor"] = _post_processor(objective, tokens)
    for added in tokenizer.get("added_tokens", []):
        if tokens.mask is not None and added["content"] == tokens.mask.text:
            # A word's token includes the space before it, so the mask of a word must include it too.
            added["lstrip"] = True
    config = _tokenizer_config(objective, tokens, max_positions)
    roles = {key: value for key, value in config.items() if key.endswith("_token")}
    write_json(target / TOKENIZER_FILE, tokenizer)
    write_json(target / CONFIG_FILE, config)
    write_json(target / ROLES_FILE, roles)


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


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object as transformers does: indented, in the given order, in UTF-8."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _named_roles(folder: Path) -> dict[str, str]:
    """Return the token of each role that the tokenizer's config names."""
    named = {}
    for file in reversed(COMPANION_FILES):
        if (folder / file).is_file():
            for key, value in read_json(folder / file).items():
                text = value.get("content") if isinstance(value, dict) else value
                if key.endswith("_token") and isinstance(text, str):
                    named[key.removesuffix("_token")] = text
    return named


def _post_processor(objective: str, tokens: SpecialTokens) -> dict[str, Any]:
    """Return tokenizer.json's template of the special tokens around one text, or two."""

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
        # A decoder generates at the right end, so its padding is on the left.
        "padding_side": "right" if is_encoder(objective) else "left",
        **{f"{role}_token": token.text for role, token in tokens.named().items()},
        **of_decoder,
    }
