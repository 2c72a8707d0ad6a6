"""A tokenizer folder: the ids and properties that training needs, and the encoder.

Training reads tokenizer.json only and never loads the encoder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_ettin.config.objectives import is_encoder
from megatron_ettin.data.corpus.special_tokens import (
    COMPANION_FILES,
    TOKENIZER_FILE,
    EndTokens,
    SpecialToken,
    literal_texts,
    resolve_roles,
    role_texts,
    token_ids,
)
from megatron_ettin.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def without_dropout(tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a tokenizer.json whose encoder applies every merge."""
    model = tokenizer["model"]
    return {**tokenizer, "model": {**model, "dropout": None} if model.get("dropout") else model}


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer.json and its companion files."""

    path: Path
    """The tokenizer.json."""
    content: bytes
    by_literal_names: bool = False
    """Whether roles go by [CLS], [SEP] and so on alone, and only flagged tokens are special: in runs of before
    ``run.json`` held the special tokens."""

    @classmethod
    def load(cls, model: str | Path, flag: str = "--tokenizer-model") -> TokenizerFiles:
        """Read a tokenizer.

        Args:
            model: a folder with tokenizer.json, or that file.
            flag: the flag that names it, for messages.

        Raises:
            ConfigError: there is none, it is not a tokenizer, or a companion file is not a JSON object.
        """
        path = Path(model)
        path = path / TOKENIZER_FILE if path.is_dir() else path
        if not path.is_file():
            raise ConfigError(f"{flag} {model}: there is no {path}; give a folder with {TOKENIZER_FILE}")
        files = cls(path, path.read_bytes())
        try:
            files.size, files.special_ids, files.roles  # noqa: B018  (parse now, so that a damaged file is refused here)
        except ConfigError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(f"{flag} {model}: {path} is not a tokenizer of the tokenizers library") from None
        return files

    def as_trained(self, data_order: Mapping[str, Any] | None) -> TokenizerFiles:
        """Return the tokenizer with the special tokens that a checkpoint was trained with.

        Args:
            data_order: the fingerprint in the checkpoint's ``run.json``; empty if it was not trained here.
        """
        by_literal_names = bool(data_order) and "special tokens" not in (data_order or {})
        return replace(self, by_literal_names=True) if by_literal_names else self

    @cached_property
    def _json(self) -> dict[str, Any]:
        return json.loads(self.content)

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """Id of each token, including added tokens."""
        return token_ids(self._json)

    @cached_property
    def size(self) -> int:
        """One more than the largest token id."""
        return max(self.ids.values()) + 1

    @cached_property
    def role_texts(self) -> Mapping[str, str]:
        """Text of the token of each role, whether the vocabulary has it or not."""
        return literal_texts() if self.by_literal_names else role_texts(self.path.parent)

    @cached_property
    def roles(self) -> Mapping[str, SpecialToken]:
        """Special tokens by role; a role without a token is missing."""
        return resolve_roles(self.role_texts, self.ids)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of all tokens that have a role or are marked as special."""
        marked = {self.ids[added["content"]] for added in self._json["added_tokens"] if added.get("special")}
        roles = () if self.by_literal_names else self.roles.values()
        return frozenset({*marked, *(token.id for token in roles)})

    @property
    def special_tokens_differ(self) -> bool:
        """Whether a run of before would see other special tokens if it started now."""
        now = replace(self, by_literal_names=False)
        return self.by_literal_names and (now.roles != self.roles or now.special_ids != self.special_ids)

    def _role_id(self, role: str) -> int | None:
        return self.roles[role].id if role in self.roles else None

    @property
    def cls_id(self) -> int | None:
        """Id of the token before each chunk, or None."""
        return self._role_id("cls")

    @property
    def sep_id(self) -> int | None:
        """Id of the token after each chunk of an encoder, or None."""
        return self._role_id("sep")

    @property
    def eos_id(self) -> int | None:
        """Id of the end of a text: of the token that preprocessing appends and that a decoder predicts, or None."""
        return self._role_id("eos")

    @property
    def pad_id(self) -> int | None:
        """Id of the padding token, or None."""
        return self._role_id("pad")

    @property
    def mask_id(self) -> int | None:
        """Id of the mask token, or None."""
        return self._role_id("mask")

    def closing_id(self, objective: str) -> int | None:
        """Return the id of the token after each closed chunk, or None."""
        return self.sep_id if is_encoder(objective) else self.eos_id

    @cached_property
    def end_tokens(self) -> EndTokens | None:
        """Ids of tokens that are not content at the end of a document; None if there is none.

        Besides the end of a text and [SEP] by its role, this is the literal [SEP], which ``--append-eod`` once appended
        whatever the roles.
        """
        literal = self.ids.get(literal_texts()["sep"])
        ids = sorted({end for end in (self.eos_id, self.sep_id, literal) if end is not None})
        return (ids[0] if len(ids) == 1 else tuple(ids)) if ids else None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of tokenizer.json."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def added_tokens(self) -> tuple[str, ...]:
        """Added tokens: matched in a text before it is split into words."""
        return tuple(added["content"] for added in self._json["added_tokens"])

    @property
    def dropout(self) -> float:
        """Probability with which the tokenizer's own encoder skips merges at random; corpora never use it."""
        return float(self._json["model"].get("dropout") or 0)

    @property
    def encoding_json(self) -> dict[str, Any]:
        """The content of tokenizer.json without dropout, so that a text always has the same ids."""
        return without_dropout(self._json)

    @cached_property
    def encoding_fingerprint(self) -> str:
        """SHA-256 of what decides the ids of a text: with equal ones, two tokenizers encode a corpus identically.

        It excludes what preprocessing never uses: special tokens around a text, truncation, padding and decoding.
        """
        used = {name: self._json.get(name) for name in ("normalizer", "pre_tokenizer", "model", "added_tokens")}
        return hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()

    def folder_files(self) -> dict[str, bytes]:
        """Return the content of every file of the tokenizer by its name in a tokenizer folder."""
        companions = {name: self.path.with_name(name) for name in COMPANION_FILES}
        contents = {name: path.read_bytes() for name, path in companions.items() if path.is_file()}
        return {TOKENIZER_FILE: self.content, **contents}

    @cached_property
    def encoder(self) -> Tokenizer:
        """The encoder of the tokenizers library, without truncation and padding.

        Raises:
            ConfigError: the tokenizers library does not accept the file.
        """
        from tokenizers import Tokenizer  # only preprocessing needs it

        try:
            encoder = Tokenizer.from_buffer(self.content)
        except Exception as error:  # the library raises plain Exception
            raise ConfigError(f"--tokenizer-model {self.path}: the tokenizers library says {error}") from None
        # A tokenizer saved with a model may be set to truncate and pad texts, which corpora never do.
        encoder.no_truncation()
        encoder.no_padding()
        if self.dropout:
            encoder.model.dropout = None
        return encoder

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text, without special tokens around it."""
        return [encoding.ids for encoding in self.encoder.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids, without special tokens."""
        return str(self.encoder.decode(ids))
