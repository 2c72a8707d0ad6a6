"""Text to token ids on disk, in a stream: memory is bounded whatever the corpus's size.

Lines are encoded by worker processes in blocks; at most a few blocks a worker are under way, and they are written in
the order in which they were read, so the result does not depend on the number of workers.
"""

from __future__ import annotations

import gzip
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.config.errors import ConfigError
from megatron_ettin.data.indexed import IndexedWriter, token_dtype
from megatron_ettin.data.tokenizer import TokenizerFiles

BLOCK_BYTES = 1 << 20
"""Text that a worker gets at a time."""
BLOCKS_PER_WORKER = 3
"""Blocks under way: one being encoded, one waiting, one being written."""


@dataclass(frozen=True)
class PreprocessSettings:
    """What to read, how to encode it and where to write it."""

    inputs: tuple[str, ...]
    output_prefix: str
    tokenizer_model: str
    json_keys: tuple[str, ...] = ("text",)
    append_eod: bool = False
    workers: int = 1


@dataclass
class Progress:
    """How far preprocessing is."""

    documents: int = 0
    text_bytes: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class _Block:
    """Lines of one file."""

    path: str
    first_line: int
    lines: tuple[bytes, ...]


Encoded = tuple[NDArray[np.integer], NDArray[np.int64]]
"""Ids of a block's documents end to end, and how many each has."""


def output_prefix(settings: PreprocessSettings, key: str) -> str:
    """Return the prefix of the pair written for one JSON key, named as Megatron names it."""
    return f"{settings.output_prefix}_{key}_document"


def preprocess(settings: PreprocessSettings, report: Callable[[Progress], None] = lambda progress: None) -> Progress:
    """Encode every document of the inputs, and write one pair of files for each JSON key.

    Args:
        settings: what to do.
        report: is shown the progress after each block.

    Raises:
        ConfigError: an input is missing, a line is no JSON object or lacks a key, or the tokenizer does not fit. Files
            are put under their names only when all is written; until then nothing is there.
    """
    tokenizer = TokenizerFiles.load(settings.tokenizer_model)
    if settings.append_eod and tokenizer.sep_id is None:
        raise ConfigError(f"--append-eod: --tokenizer-model {settings.tokenizer_model} has no [SEP] token to append")
    for path in settings.inputs:
        if not Path(path).is_file():
            raise ConfigError(f"--input {path}: there is no such file")
    folder = Path(settings.output_prefix).absolute().parent
    if not folder.is_dir():
        raise ConfigError(f"--output-prefix {settings.output_prefix}: there is no folder {folder}")
    progress = Progress()
    with ExitStack() as stack:
        writers = [
            stack.enter_context(IndexedWriter(output_prefix(settings, key), token_dtype(tokenizer.size)))
            for key in settings.json_keys
        ]
        for block, encoded in _encode_blocks(settings):
            for writer, (ids, lengths) in zip(writers, encoded, strict=True):
                for document in np.split(ids, np.cumsum(lengths)[:-1]):
                    writer.add_document(document)
                progress.tokens += len(ids)
            progress.documents += len(block.lines)
            progress.text_bytes += sum(map(len, block.lines))
            report(progress)
    return progress


def _encode_blocks(settings: PreprocessSettings) -> Iterator[tuple[_Block, list[Encoded]]]:
    """Yield each block with its ids, in the order of the input."""
    blocks = _read_blocks(settings.inputs)
    if settings.workers == 1:
        encoder = _Encoder(settings)
        for block in blocks:
            yield block, encoder.encode(block)
        return
    # Spawned, because the tokenizers library may hold threads that do not survive a fork.
    with ProcessPoolExecutor(settings.workers, get_context("spawn"), _start_worker, (settings,)) as pool:
        under_way: deque[tuple[_Block, Future[list[Encoded]]]] = deque()
        try:
            for block in blocks:
                under_way.append((block, pool.submit(_encode_in_worker, block)))
                if len(under_way) >= settings.workers * BLOCKS_PER_WORKER:
                    first, encoded = under_way.popleft()
                    yield first, encoded.result()
            for first, encoded in under_way:
                yield first, encoded.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _read_blocks(paths: Sequence[str]) -> Iterator[_Block]:
    for path in paths:
        with _open(path) as file:
            number = 1
            while lines := file.readlines(BLOCK_BYTES):
                yield _Block(path, number, tuple(lines))
                number += len(lines)


def _open(path: str) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.endswith(".gz") else Path(path).open("rb")


class _Encoder:
    """Encodes blocks in one process."""

    def __init__(self, settings: PreprocessSettings) -> None:
        self._settings = settings
        self._tokenizer = TokenizerFiles.load(settings.tokenizer_model)
        self._dtype = token_dtype(self._tokenizer.size)
        self._end = [self._tokenizer.sep_id] if settings.append_eod else []

    def encode(self, block: _Block) -> list[Encoded]:
        """Return the ids of a block for each JSON key."""
        documents = [self._parse(line, block, number) for number, line in enumerate(block.lines, block.first_line)]
        return [self._encode_texts(list(texts)) for texts in zip(*documents, strict=True)]

    def _parse(self, line: bytes, block: _Block, number: int) -> list[str]:
        where = f"--input {block.path} line {number}"
        try:
            document = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{where}: is not JSON ({error})") from None
        texts = []
        for key in self._settings.json_keys:
            if not isinstance(document, dict) or not isinstance(document.get(key), str):
                raise ConfigError(f'{where}: is no JSON object with a text under "{key}" (--json-keys)')
            texts.append(document[key])
        return texts

    def _encode_texts(self, texts: list[str]) -> Encoded:
        # An empty document stays empty: it has no end to mark.
        ids = [found + self._end if found else found for found in self._tokenizer.encode_batch(texts)]
        flat = np.concatenate([np.asarray(document, dtype=self._dtype) for document in ids])
        return flat, np.array([len(document) for document in ids], dtype=np.int64)


_encoder: _Encoder | None = None
"""Of this worker process."""


def _start_worker(settings: PreprocessSettings) -> None:
    global _encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _encoder = _Encoder(settings)


def _encode_in_worker(block: _Block) -> list[Encoded]:
    assert _encoder is not None
    return _encoder.encode(block)
