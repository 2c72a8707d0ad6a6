"""Encode the values of many documents to the arrays that a .bin/.idx pair is written from."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.corpus.indexed_writer import token_dtype
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.preprocess.documents import Value
from megatron_ettin.data.preprocess.encoders import Encoder, Ids
from megatron_ettin.data.preprocess.running_check import check_ids, checked_places
from megatron_ettin.data.preprocess.sentences import SentenceSplitter
from megatron_ettin.errors import ConfigError


@dataclass(frozen=True)
class Block:
    """Documents laid end to end."""

    ids: NDArray[np.integer]
    lengths: NDArray[np.int64]
    """Tokens of each sequence; none is empty."""
    counts: NDArray[np.int64]
    """Sequences of each document; an empty document has none."""


class BlockEncoder:
    """Splits documents into sequences, encodes them, and appends the end-of-document token."""

    def __init__(
        self, tokenizer: TokenizerFiles, encoder: Encoder, splitter: SentenceSplitter | None, *, append_eod: bool
    ) -> None:
        """Combine tokenizer, encoder and splitter.

        Raises:
            ConfigError: ``append_eod`` is set and the tokenizer has no token for the end of a text.
        """
        if append_eod and tokenizer.eos_id is None:
            end = tokenizer.role_texts["eos"]
            raise ConfigError(f"--append-eod: --tokenizer-model {tokenizer.path} has no {end} token to append")
        self.encoder = encoder
        self.dtype = token_dtype(tokenizer.size)
        self._splitter = splitter
        self._end = tokenizer.eos_id if append_eod else None
        self._ends, self._size = tokenizer.end_tokens or (), tokenizer.size
        self._starts = {tokenizer.roles[role].id for role in ("cls", "bos") if role in tokenizer.roles}

    def exact(self) -> BlockEncoder:
        """Return the same with the tokenizers library as its encoder."""
        exact = copy(self)
        exact.encoder = self.encoder.exact or self.encoder
        return exact

    def check(self, task: int, file: int, numbers: Sequence[int], values: Sequence[Value]) -> None:
        """Encode a few of the documents with both libraries.

        Args:
            task: number of the task that reads them.
            file: index of their file in the list of inputs.
            numbers: number of each document in its file, or in the task's span of it.
            values: the documents.

        Raises:
            EncodersDiffer: the ids of a document differ.
        """
        if self.encoder.exact is not None:
            items, _ = self._split([values[place] for place in checked_places(task, file, numbers, values)])
            texts = [item for item in items if isinstance(item, str)]
            check_ids(texts, self.encoder.encode(texts), self.encoder.exact)

    def encode(self, values: Sequence[Value], where: str) -> Block:
        """Return the token ids of the documents; given ids are kept, without a [CLS] at their start.

        Raises:
            ConfigError: given ids are outside the vocabulary; the message starts with ``where``.
        """
        items, counts = self._split(values)
        encoded = iter(self.encoder.encode([item for item in items if isinstance(item, str)]))
        arrays = [next(encoded) if isinstance(item, str) else self._given(item, where) for item in items]
        lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
        document_of = np.repeat(np.arange(len(values)), counts)[lengths > 0]
        counts = np.bincount(document_of, minlength=len(values))
        lengths = lengths[lengths > 0]
        ids = np.concatenate(arrays) if arrays else np.zeros(0, np.uint32)
        if len(ids) and not int(ids.max()) < self._size:
            raise ConfigError(f"{where}: contains token id {ids.max()}; the tokenizer has {self._size} tokens")
        ids = ids.astype(self.dtype)
        if self._end is not None:
            ids, lengths = self._append_end(self._end, ids, lengths, counts, values)
        return Block(ids, lengths, counts)

    def _split(self, values: Sequence[Value]) -> tuple[list[str | Ids], NDArray[np.int64]]:
        """Return the sequences of all documents, and the number of each document's."""
        split = self._splitter.split if self._splitter else None
        items: list[str | Ids] = []
        counts = np.ones(len(values), np.int64)
        for number, value in enumerate(values):
            if isinstance(value, str) and split is None:
                items.append(value)
                continue
            parts = value if isinstance(value, list) else [value]
            if split is not None:
                parts = [each for part in parts for each in (split(part) if isinstance(part, str) else [part])]
            items += parts
            counts[number] = len(parts)
        return items, counts

    def _append_end(
        self,
        end: int,
        ids: NDArray[np.integer],
        lengths: NDArray[np.int64],
        counts: NDArray[np.int64],
        values: Sequence[Value],
    ) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
        """Append the end token to each document that has tokens, unless given ids already end with one."""
        last_sequences = np.cumsum(counts)[counts > 0] - 1
        ends = np.cumsum(lengths)[last_sequences]
        given = np.fromiter((isinstance(value, np.ndarray) for value in values), bool, len(values))[counts > 0]
        open_ended = ~(given & np.isin(ids[ends - 1], self._ends))
        lengths[last_sequences[open_ended]] += 1
        return np.insert(ids, ends[open_ended], end), lengths

    def _given(self, ids: Ids, where: str) -> Ids:
        if len(ids) and int(ids.min()) < 0:
            raise ConfigError(f"{where}: contains the negative token id {ids.min()}")
        # Training starts every row with a [CLS] itself.
        ids = np.asarray(ids, np.int64)
        return ids[1:] if len(ids) and int(ids[0]) in self._starts else ids
