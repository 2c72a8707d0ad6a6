"""Values of many documents to the arrays that a pair is written from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.corpus.indexed_writer import token_dtype
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.preprocess.documents import Value
from megatron_ettin.data.preprocess.encoders import Encoder, Ids
from megatron_ettin.data.preprocess.sentences import SentenceSplitter
from megatron_ettin.errors import ConfigError


@dataclass(frozen=True)
class Block:
    """Documents end to end."""

    ids: NDArray[np.integer]
    lengths: NDArray[np.int64]
    """Tokens of each sequence; none is empty."""
    counts: NDArray[np.int64]
    """Sequences of each document; an empty document has none."""


class BlockEncoder:
    """Splits, encodes, and sets the end of each document."""

    def __init__(
        self, tokenizer: TokenizerFiles, encoder: Encoder, splitter: SentenceSplitter | None, *, append_eod: bool
    ) -> None:
        """Take the parts.

        Raises:
            ConfigError: an end is to be appended, and the tokenizer has none.
        """
        if append_eod and tokenizer.sep_id is None:
            raise ConfigError(f"--append-eod: --tokenizer-model {tokenizer.path} has no [SEP] token to append")
        self.encoder = encoder
        self.dtype = token_dtype(tokenizer.size)
        self._splitter = splitter
        self._end = tokenizer.sep_id if append_eod else None
        self._cls, self._size = tokenizer.cls_id, tokenizer.size

    def encode(self, values: Sequence[Value], where: str) -> Block:
        """Return the ids of the documents' texts; ready ids stay as they are, but for a [CLS] in front.

        Raises:
            ConfigError: ready ids do not fit the tokenizer; ``where`` names them in the message.
        """
        items, counts = self._split(values)
        encoded = iter(self.encoder.encode([item for item in items if isinstance(item, str)]))
        arrays = [next(encoded) if isinstance(item, str) else self._ready(item, where) for item in items]
        lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
        document_of = np.repeat(np.arange(len(values)), counts)[lengths > 0]
        counts = np.bincount(document_of, minlength=len(values))
        lengths = lengths[lengths > 0]
        ids = np.concatenate(arrays) if arrays else np.zeros(0, np.uint32)
        if len(ids) and not int(ids.max()) < self._size:
            raise ConfigError(f"{where}: gives token id {ids.max()}; the tokenizer has {self._size} tokens")
        ids = ids.astype(self.dtype)
        if self._end is not None:
            ids, lengths = self._append_end(self._end, ids, lengths, counts, values)
        return Block(ids, lengths, counts)

    def _split(self, values: Sequence[Value]) -> tuple[list[str | Ids], NDArray[np.int64]]:
        """Return sequences of all documents, and how many each has."""
        split = self._splitter.split if self._splitter else None
        items: list[str | Ids] = []
        counts = np.ones(len(values), np.int64)
        for number, value in enumerate(values):
            if isinstance(value, str) and split is None:
                items.append(value)
                continue
            parts = value if isinstance(value, list) else [value]
            if split is not None:
                parts = [chunk for part in parts for chunk in (split(part) if isinstance(part, str) else [part])]
            items += parts
            counts[number] = len(parts)
        return items, counts

    @staticmethod
    def _append_end(
        end: int,
        ids: NDArray[np.integer],
        lengths: NDArray[np.int64],
        counts: NDArray[np.int64],
        values: Sequence[Value],
    ) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
        """Put the end behind each document that has tokens, unless ready ids have it already."""
        last_sequences = np.cumsum(counts)[counts > 0] - 1
        ends = np.cumsum(lengths)[last_sequences]
        ready = np.fromiter((isinstance(value, np.ndarray) for value in values), bool, len(values))[counts > 0]
        wanted = ~(ready & (ids[ends - 1] == end))
        lengths[last_sequences[wanted]] += 1
        return np.insert(ids, ends[wanted], end), lengths

    def _ready(self, ids: Ids, where: str) -> Ids:
        if len(ids) and int(ids.min()) < 0:
            raise ConfigError(f"{where}: gives the negative token id {ids.min()}")
        # Rows begin with a [CLS] of their own.
        ids = np.asarray(ids, np.int64)
        return ids[1:] if len(ids) and ids[0] == self._cls else ids
