"""Encode texts to token ids: with gigatoken where it agrees with the tokenizers library, else with that library."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.preprocess.screen import TextScreen, Unsupported, probe_texts
from megatron_ettin.errors import ConfigError, first_line

Ids = NDArray[np.integer]
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LONGEST_REASON = 200
"""Characters shown of an error of gigatoken."""


class Encoder(Protocol):
    """Encodes texts without adding special tokens."""

    name: str

    @property
    def exact(self) -> Encoder | None:
        """The encoder to check this one against; None for the tokenizers library itself."""

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Return the ids of each text."""


class GigatokenEncoder:
    """Byte-level and SentencePiece BPE, tens of times as fast as the tokenizers library.

    Its cache of words is unbounded: 300 MB of random letters fill 2 GB. So the tokenizer is loaded again, which takes a
    tenth of a second, when this process has grown by ``cache_bytes``.

    The rare texts that it may encode otherwise than the tokenizers library go to that library (``TextScreen``).
    """

    def __init__(self, tokenizer: TokenizerFiles, cache_bytes: int = 256 << 20) -> None:
        """Load the tokenizer.

        Raises:
            Unsupported: gigatoken may encode any text differently.
            Exception: gigatoken cannot load the tokenizer.
        """
        # The inner module: importing the package takes 0.4 s longer, for arrays that are not used here.
        from gigatoken.gigatoken_rs import load_hf_json

        self.name = f"gigatoken {version('gigatoken')}"
        content = json.dumps(tokenizer.encoding_json)
        self._load = lambda: load_hf_json(content)
        self._library = LibraryEncoder(tokenizer)
        self._tokenizer: Any = self._load()
        self._screen = TextScreen(tokenizer.encoding_json)
        self.uncertain_characters = self._screen.uncertain_characters
        self._cache_bytes = cache_bytes
        self._process = self._limit_bytes = 0

    @property
    def exact(self) -> LibraryEncoder:
        """The tokenizers library."""
        return self._library

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Return the ids of each text."""
        if self._process != os.getpid():  # first call in this process, which may be a fork
            self._process, self._limit_bytes = os.getpid(), resident_bytes() + self._cache_bytes
        encode = self._tokenizer.encode
        prepared = map(self._screen.prepare, texts)
        ids: list[Ids] = [
            encode(text) if text is not None else self._encode_by_library(texts[n]) for n, text in enumerate(prepared)
        ]
        if resident_bytes() > self._limit_bytes:
            del encode
            self._tokenizer = None
            self._tokenizer = self._load()
            # Memory of other objects must not trigger a reload at every call.
            self._limit_bytes = max(self._limit_bytes, resident_bytes() + self._cache_bytes)
        return ids

    def _encode_by_library(self, text: str) -> Ids:
        (ids,) = self._library.encode([text])
        return ids


class LibraryEncoder:
    """The tokenizers library, which is also the reference for gigatoken."""

    def __init__(self, tokenizer: TokenizerFiles) -> None:
        """Load the tokenizer."""
        self.name = f"tokenizers {version('tokenizers')}"
        self._tokenizer = tokenizer
        self.exact = None
        tokenizer.encoder  # noqa: B018  (loaded now, for workers to inherit on fork)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Return the ids of each text."""
        try:
            encoded = self._tokenizer.encode_batch(list(texts))
        except BaseException as error:  # a panic is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit | ConfigError):
                raise
            reason = f"the tokenizers library fails on a text ({first_line(error)[:_LONGEST_REASON]})"
            raise ConfigError(f"--tokenizer-model {self._tokenizer.path}: {reason}") from None
        return [np.array(ids, np.uint32) for ids in encoded]


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    with Path("/proc/self/statm").open("rb") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES


def choose_encoder(
    tokenizer: TokenizerFiles, sample: Sequence[str], cache_bytes: int = 256 << 20
) -> tuple[Encoder, str]:
    """Return the encoder to use and the reason for it.

    Both encode the sample and, since real text rarely contains them, texts with the tokenizer's added tokens.
    """
    library = LibraryEncoder(tokenizer)
    try:
        fast = GigatokenEncoder(tokenizer, cache_bytes)
    except ImportError:
        return library, "gigatoken is not installed"
    except Unsupported as error:
        return library, f"gigatoken may differ: {error}"
    except Exception as error:
        return library, f"gigatoken does not support this tokenizer ({first_line(error)[:_LONGEST_REASON]})"
    texts = [*sample, *probe_texts(tokenizer.added_tokens, fast.uncertain_characters)]
    try:
        encoded, expected_ids = fast.encode(texts), library.encode(texts)
    except BaseException as error:  # a panic of either library is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return library, f"an encoder fails on a sample of the input ({first_line(error)[:_LONGEST_REASON]})"
    for text, ids, expected in zip(texts, encoded, expected_ids, strict=True):
        if not np.array_equal(ids, expected):
            return library, f"gigatoken encodes {_excerpt(text, ids, expected, tokenizer)} differently"
    return fast, f"same ids as {library.name} on {len(sample)} documents of the input"


def load_encoder(tokenizer: TokenizerFiles, name: str) -> Encoder:
    """Return the encoder that :func:`choose_encoder` chose on another machine.

    Raises:
        ConfigError: this machine has another version of it.
    """
    encoder: Encoder = GigatokenEncoder(tokenizer) if name.startswith("gigatoken") else LibraryEncoder(tokenizer)
    if encoder.name != name:
        raise ConfigError(f"--executor ray: a worker has {encoder.name}, the run began with {name}")
    return encoder


def _excerpt(text: str, ids: Ids, expected: Ids, tokenizer: TokenizerFiles) -> str:
    """Return the text around the first id that differs."""
    place = next(
        (i for i, (a, b) in enumerate(zip(ids, expected, strict=False)) if a != b), min(len(ids), len(expected))
    )
    near = tokenizer.decode([int(token) for token in expected[max(0, place - 4) : place + 4]])
    return repr(near or text[:40])
