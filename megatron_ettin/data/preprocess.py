"""Text to token ids on disk, in a stream: memory is bounded whatever the corpus's size.

Lines are encoded by worker processes in blocks; at most a few blocks a worker are under way, and they are written in
the order in which they were read, so the result does not depend on the number of workers.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.config.errors import ConfigError
from megatron_ettin.data.indexed import IndexedWriter, token_dtype
from megatron_ettin.data.jsonl import LineBlock, check_inputs, parse_texts, read_blocks
from megatron_ettin.data.tokenizer import TokenizerFiles

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
        ConfigError: an input is missing or damaged, a line is no JSON object or lacks a key, or the tokenizer does not
            fit. Files are put under their names only when all is written; until then nothing is there.
    """
    check_inputs(settings.inputs, "--input")
    encoder = _Encoder(settings)
    folder = Path(settings.output_prefix).absolute().parent
    if not folder.is_dir():
        raise ConfigError(f"--output-prefix {settings.output_prefix}: there is no folder {folder}")
    progress = Progress()
    with ExitStack() as stack:
        writers = [
            stack.enter_context(IndexedWriter(output_prefix(settings, key), encoder.dtype))
            for key in settings.json_keys
        ]
        for block, encoded in _encode_blocks(settings, encoder):
            for writer, (ids, lengths) in zip(writers, encoded, strict=True):
                writer.add_documents(ids, lengths)
                progress.tokens += len(ids)
            progress.documents += len(block.lines)
            progress.text_bytes += block.num_bytes
            report(progress)
    return progress


class _Encoder:
    """Encodes blocks in one process."""

    def __init__(self, settings: PreprocessSettings) -> None:
        self._settings = settings
        self._tokenizer = TokenizerFiles.load(settings.tokenizer_model)
        self.dtype = token_dtype(self._tokenizer.size)
        self._end: list[int] = []
        if settings.append_eod:
            if self._tokenizer.sep_id is None:
                rule = f"--tokenizer-model {settings.tokenizer_model} has no [SEP] token to append"
                raise ConfigError(f"--append-eod: {rule}")
            self._end = [self._tokenizer.sep_id]

    def encode(self, block: LineBlock) -> list[Encoded]:
        """Return the ids of a block for each JSON key."""
        documents = list(parse_texts(block, self._settings.json_keys, "--input"))
        return [self._encode_texts([texts[key] for texts in documents]) for key in range(len(self._settings.json_keys))]

    def _encode_texts(self, texts: list[str]) -> Encoded:
        # An empty document stays empty: it has no end to mark.
        ids = [found + self._end if found else found for found in self._tokenizer.encode_batch(texts)]
        lengths = np.array([len(document) for document in ids], dtype=np.int64)
        return np.fromiter(chain.from_iterable(ids), self.dtype, int(lengths.sum())), lengths


def _encode_blocks(settings: PreprocessSettings, encoder: _Encoder) -> Iterator[tuple[LineBlock, list[Encoded]]]:
    """Yield each block with its ids, in the order of the input."""
    blocks = read_blocks(settings.inputs, "--input")
    if settings.workers == 1:
        for block in blocks:
            yield block, encoder.encode(block)
        return
    # Spawned, because the tokenizers library may hold threads that do not survive a fork.
    others = active_children()
    with ProcessPoolExecutor(settings.workers, get_context("spawn"), _start_worker, (settings,)) as pool:
        under_way: deque[tuple[LineBlock, Future[list[Encoded]]]] = deque()
        try:
            for block in blocks:
                under_way.append((block, pool.submit(_encode_in_worker, block)))
                if len(under_way) >= settings.workers * BLOCKS_PER_WORKER:
                    first, encoded = under_way.popleft()
                    yield first, encoded.result()
            for first, encoded in under_way:
                yield first, encoded.result()
        except BrokenProcessPool:
            raise ConfigError(f"--workers {settings.workers}: a worker was killed; fewer need less memory") from None
        except BaseException:
            # An interrupt may fall between a worker's start and the pool's noting it, which would then wait for ever.
            for worker in set(active_children()).difference(others):
                worker.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


_encoder: _Encoder | None = None
"""Of this worker process."""


def _start_worker(settings: PreprocessSettings) -> None:
    global _encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _encoder = _Encoder(settings)


def _end_with_parent() -> None:
    """End this worker when its parent is gone, even if that was killed and could not say so."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _encode_in_worker(block: LineBlock) -> list[Encoded]:
    assert _encoder is not None
    return _encoder.encode(block)
