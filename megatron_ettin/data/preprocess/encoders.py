"""From text to token ids: gigatoken where it gives what the tokenizers library gives, else that library."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.errors import ConfigError, first_line

Ids = NDArray[np.integer]
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Encoder(Protocol):
    """Turns texts into ids without special tokens around them."""

    name: str

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Return the ids of each text."""


class GigatokenEncoder:
    """Byte-level and SentencePiece BPE, some tens of times as fast as the tokenizers library.

    The library keeps every word it has seen, without a bound: text of random letters fills 2 GB in 300 MB of it. So it
    is loaded anew, which takes a tenth of a second, when this process has grown by ``cache_bytes``.

    Added tokens that swallow the white space beside them, as ModernBERT's [MASK] does, it takes after those that are
    white space themselves, the tokenizers library before. Text that spells one is rare and goes to that library.
    """

    def __init__(self, tokenizer: TokenizerFiles, cache_bytes: int = 256 << 20) -> None:
        """Load the tokenizer.

        Raises:
            Exception: whatever the library says to a tokenizer that it does not support.
        """
        # The inner module: the package around it takes another 0.4 s to import, for arrays that are not used here.
        from gigatoken.gigatoken_rs import load_hf_json

        self.name = f"gigatoken {version('gigatoken')}"
        content = tokenizer.content
        self._load = lambda: load_hf_json(content)
        self._swallowing = tokenizer.swallowing_tokens
        self._library = LibraryEncoder(tokenizer) if self._swallowing else None
        self._tokenizer: Any = self._load()
        self._cache_bytes = cache_bytes
        self._process = self._limit_bytes = 0

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Return the ids of each text."""
        if self._process != os.getpid():  # the first text in this process, which may be a fork
            self._process, self._limit_bytes = os.getpid(), resident_bytes() + self._cache_bytes
        encode = self._tokenizer.encode
        found: list[Ids] = [encode(text) if self._takes(text) else self._by_library(text) for text in texts]
        if resident_bytes() > self._limit_bytes:
            del encode
            self._tokenizer = None
            self._tokenizer = self._load()
            # Else what is held for other reasons would have it loaded again and again.
            self._limit_bytes = max(self._limit_bytes, resident_bytes() + self._cache_bytes)
        return found

    def _takes(self, text: str) -> bool:
        return not any(token in text for token in self._swallowing)

    def _by_library(self, text: str) -> Ids:
        assert self._library is not None
        (ids,) = self._library.encode([text])
        return ids


class LibraryEncoder:
    """The tokenizers library, which is also the judge of the other one."""

    def __init__(self, tokenizer: TokenizerFiles) -> None:
        """Load the tokenizer."""
        self.name = f"tokenizers {version('tokenizers')}"
        self._tokenizer = tokenizer
        tokenizer.encoder  # noqa: B018  (loaded now, so that a worker that is forked has it)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Return the ids of each text."""
        return [np.array(ids, np.uint32) for ids in self._tokenizer.encode_batch(list(texts))]


def resident_bytes() -> int:
    """Return the memory that this process has in use."""
    with Path("/proc/self/statm").open("rb") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES


def choose_encoder(
    tokenizer: TokenizerFiles, sample: Sequence[str], cache_bytes: int = 256 << 20
) -> tuple[Encoder, str]:
    """Return the encoder to use and why it is that one.

    Both encode the sample, and texts around the tokenizer's added tokens, which real text seldom holds.
    """
    judge = LibraryEncoder(tokenizer)
    try:
        fast = GigatokenEncoder(tokenizer, cache_bytes)
    except ImportError:
        return judge, "gigatoken is not installed"
    except Exception as error:
        return judge, f"gigatoken does not support this tokenizer ({first_line(error)[:200]})"
    texts = [*sample, *_probes(tokenizer)]
    try:
        found = fast.encode(texts)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return judge, f"gigatoken fails on a sample of the input ({first_line(error)[:200]})"
    for text, ids, expected in zip(texts, found, judge.encode(texts), strict=True):
        if not np.array_equal(ids, expected):
            return judge, f"gigatoken encodes {_excerpt(text, ids, expected, judge)} differently"
    return fast, f"same ids as {judge.name} on {len(sample)} documents of the input"


def load_encoder(tokenizer: TokenizerFiles, name: str) -> Encoder:
    """Return the encoder of a name that :func:`choose_encoder` gave on another machine.

    Raises:
        ConfigError: this machine has another version of it.
    """
    encoder: Encoder = GigatokenEncoder(tokenizer) if name.startswith("gigatoken") else LibraryEncoder(tokenizer)
    if encoder.name != name:
        raise ConfigError(f"--executor ray: a worker has {encoder.name}, the run began with {name}")
    return encoder


def _probes(tokenizer: TokenizerFiles) -> list[str]:
    """Return texts in which added tokens stand alone, between words and behind spaces, and white space in a row."""
    tokens = tokenizer.added_tokens
    around = [form.format(token) for token in tokens[:64] for form in ("{}", "a{}b", "a {} b", "a  {0}\n{0}")]
    return ["", " ", "\n\n", "\t \u00a0 x", "a" * 300, "e\u0301\u1100\u1161 \ufb01", "\x00a", *around]


def _excerpt(text: str, ids: Ids, expected: Ids, judge: LibraryEncoder) -> str:
    place = next(
        (i for i, (a, b) in enumerate(zip(ids, expected, strict=False)) if a != b), min(len(ids), len(expected))
    )
    near = judge._tokenizer.decode([int(token) for token in expected[max(0, place - 4) : place + 4]])
    return repr(near or text[:40])
