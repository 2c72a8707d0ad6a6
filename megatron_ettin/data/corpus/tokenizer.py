"""A tokenizer folder: the ids and properties that training needs, and the encoder.

Training reads tokenizer.json only and never loads the encoder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_ettin.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_FILE = "tokenizer.json"
COMPANION_FILES = ("tokenizer_config.json", "special_tokens_map.json")


def token_ids(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Return the id of every token of a tokenizer.json, including added tokens.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is not a tokenizer of the tokenizers library.
    """
    vocabulary = tokenizer["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram lists (token, score) pairs in the order of their ids
        vocabulary = {token: number for number, (token, _) in enumerate(vocabulary)}
    return {**vocabulary, **{added["content"]: added["id"] for added in tokenizer["added_tokens"]}}


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer.json and its companion files."""

    path: Path
    """The tokenizer.json."""
    content: bytes

    @classmethod
    def load(cls, model: str | Path) -> TokenizerFiles:
        """Read a tokenizer.

        Args:
            model: a folder with tokenizer.json, or that file.

        Raises:
            ConfigError: there is none, or it is not a tokenizer.
        """
        path = Path(model)
        path = path / TOKENIZER_FILE if path.is_dir() else path
        if not path.is_file():
            raise ConfigError(f"--tokenizer-model {model}: there is no {path}; give a folder with {TOKENIZER_FILE}")
        files = cls(path, path.read_bytes())
        try:
            files.size, files.special_ids  # noqa: B018  (parse now, so that a damaged file is refused here)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(
                f"--tokenizer-model {model}: {path} is not a tokenizer of the tokenizers library"
            ) from None
        return files

    @cached_property
    def _json(self) -> dict[str, Any]:
        return json.loads(self.content)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return token_ids(self._json)

    @cached_property
    def size(self) -> int:
        """One more than the largest token id."""
        return max(self._ids.values()) + 1

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of all tokens marked as special."""
        return frozenset(added["id"] for added in self._json["added_tokens"] if added["special"])

    @property
    def cls_id(self) -> int | None:
        """Id of [CLS], or None."""
        return self._ids.get("[CLS]")

    @property
    def sep_id(self) -> int | None:
        """Id of [SEP], or None."""
        return self._ids.get("[SEP]")

    @property
    def pad_id(self) -> int | None:
        """Id of [PAD], or None."""
        return self._ids.get("[PAD]")

    @property
    def mask_id(self) -> int | None:
        """Id of [MASK], or None."""
        return self._ids.get("[MASK]")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of tokenizer.json."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def added_tokens(self) -> tuple[str, ...]:
        """Added tokens: matched in a text before it is split into words."""
        return tuple(added["content"] for added in self._json["added_tokens"])

    @cached_property
    def swallowing_tokens(self) -> tuple[str, ...]:
        """Added tokens that include adjacent white space."""
        return tuple(added["content"] for added in self._json["added_tokens"] if added["lstrip"] or added["rstrip"])

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
        return encoder

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text, without special tokens around it."""
        return [encoding.ids for encoding in self.encoder.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids, without special tokens."""
        return str(self.encoder.decode(ids))
