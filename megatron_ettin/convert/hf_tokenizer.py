"""Read the special tokens of a tokenizer, and write the tokenizer of a released model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.config.objectives import OBJECTIVES, is_encoder
from megatron_ettin.data.corpus.special_tokens import (
    COMPANION_FILES,
    TOKENIZER_FILE,
    SpecialToken,
    read_json,
)
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles, without_dropout
from megatron_ettin.errors import ConfigError

CONFIG_FILE, ROLES_FILE = COMPANION_FILES


@dataclass(frozen=True)
class SpecialTokens:
    """Special tokens by their role; those without a default are required."""

    cls: SpecialToken
    sep: SpecialToken
    pad: SpecialToken
    mask: SpecialToken | None = None
    unk: SpecialToken | None = None
    eos: SpecialToken | None = None
    """The end of a text, where it is not ``sep``."""

    @property
    def end(self) -> SpecialToken:
        """The token that a decoder predicts at the end of a text."""
        return self.eos or self.sep

    def named(self) -> dict[str, SpecialToken]:
        """Return the tokens that exist, by role."""
        return {role: token for role, token in vars(self).items() if token is not None}


def read_special_tokens(tokenizer: TokenizerFiles, objective: str, vocab_size: int) -> SpecialTokens:
    """Return the special tokens of a tokenizer.

    Raises:
        ConfigError: a token that the objective needs is missing, or an id is outside the vocabulary.
    """
    tokens = tokenizer.roles
    for role in OBJECTIVES[objective].special_tokens:
        if role not in tokens:
            rule = f"has no {tokenizer.role_texts[role]} token, which {objective} models need"
            raise ConfigError(f"{tokenizer.path}: {rule}")
    if tokenizer.size > vocab_size:
        rule = f"token id {tokenizer.size - 1} is outside the model's vocabulary of {vocab_size}"
        raise ConfigError(f"{tokenizer.path}: {rule}")
    known = {role: tokens[role] for role in ("cls", "sep", "pad", "mask", "unk") if role in tokens}
    eos = tokens.get("eos")
    return SpecialTokens(**known, eos=eos if eos != tokens["sep"] else None)


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
    tokenizer = without_dropout(read_json(source / TOKENIZER_FILE))
    tokenizer["truncation"] = tokenizer["padding"] = None
    tokenizer["post_processor"] = _post_processor(objective, tokens)
    _mark_special(tokenizer, tokens)
    for added in tokenizer["added_tokens"]:
        if tokens.mask is not None and added["content"] == tokens.mask.text:
            # A word's token includes the space before it, so the mask of a word must include it too.
            added["lstrip"] = True
    config = _tokenizer_config(objective, tokens, max_positions)
    roles = {key: value for key, value in config.items() if key.endswith("_token")}
    write_json(target / TOKENIZER_FILE, tokenizer)
    write_json(target / CONFIG_FILE, config)
    write_json(target / ROLES_FILE, roles)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object as transformers does: indented, in the given order, in UTF-8."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _mark_special(tokenizer: dict[str, Any], tokens: SpecialTokens) -> None:
    """Make every token with a role an added token that is marked as special."""
    added = {entry["content"]: entry for entry in tokenizer["added_tokens"]}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    for token in tokens.named().values():
        entry = added.setdefault(token.text, {"id": token.id, "content": token.text, **plain})
        entry["special"] = True
    tokenizer["added_tokens"] = list(added.values())


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
    of_decoder = {} if is_encoder(objective) else {"bos_token": tokens.cls.text, "eos_token": tokens.end.text}
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
