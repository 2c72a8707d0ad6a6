"""Verification of a pair: complete, consistent with its manifest, and with token ids of the vocabulary only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.corpus.indexed import IndexHeader
from megatron_ettin.data.corpus.manifest import Manifest, Part
from megatron_ettin.data.corpus.merge import read_table
from megatron_ettin.errors import ConfigError
from megatron_ettin.files import file_sha256

_BLOCK_BYTES = 8 << 20


class BadPair(ValueError):
    """The first error in a pair, with its position."""


def verify_pair(prefix: str, vocab_size: int | None = None) -> str:
    """Read and check a complete pair in bounded memory.

    Args:
        prefix: of the pair.
        vocab_size: upper bound of the token ids, exclusive; by default that of the manifest.

    Returns:
        A summary in one line.

    Raises:
        BadPair: the first error.
    """
    index, tokens = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    try:
        header = IndexHeader.read(index)
        manifest = Manifest.load(prefix)
        size = tokens.stat().st_size
    except ConfigError as error:
        raise BadPair(str(error).removeprefix("--data-path: ")) from None
    except FileNotFoundError as error:
        raise BadPair(f"there is no file {error.filename}") from None
    if index.stat().st_size != header.num_bytes:
        raise BadPair(f"{index}: has {index.stat().st_size} bytes, its header says {header.num_bytes}")
    num_tokens = _check_sequences(index, header)
    _check_marks(index, header)
    if size != num_tokens * header.dtype.itemsize:
        raise BadPair(f"{tokens}: has {size} bytes, its index says {num_tokens * header.dtype.itemsize}")
    if manifest is not None:
        _check_manifest(prefix, manifest, header, num_tokens)
        vocab_size = manifest.vocab_size if vocab_size is None else vocab_size
    _check_tokens(tokens, header, vocab_size, manifest.parts if manifest else None)
    checked = "checksums" if manifest else "no manifest, so no checksums"
    limit = f"ids below {vocab_size:,}" if vocab_size is not None else "no vocabulary size given"
    return f"{prefix}: {header.num_marks - 1:,} documents, {num_tokens:,} tokens, {limit}, {checked}"


def _check_sequences(index: Path, header: IndexHeader) -> int:
    """Check the lengths against the pointers, and return the number of tokens."""
    lengths = read_table(index, header.lengths_at, np.int32, header.num_sequences)
    pointers = read_table(index, header.pointers_at, np.int64, header.num_sequences)
    end = number = 0
    for part, offsets in zip(lengths, pointers, strict=True):
        if part.min() < 0:
            raise BadPair(f"{index}: sequence {number + int((part < 0).argmax())} has a negative length")
        ends = end + np.cumsum(part, dtype=np.int64) * header.dtype.itemsize
        expected = np.concatenate(([end], ends[:-1]))
        if (offsets != expected).any():
            wrong = int((offsets != expected).argmax())
            rule = f"starts at byte {offsets[wrong]}, the lengths before it say {expected[wrong]}"
            raise BadPair(f"{index}: sequence {number + wrong} {rule}")
        end = int(ends[-1])
        number += len(part)
    return end // header.dtype.itemsize


def _check_marks(index: Path, header: IndexHeader) -> None:
    previous = number = 0
    for part in read_table(index, header.marks_at, np.int64, header.num_marks):
        steps = np.diff(part, prepend=previous)
        if (steps < 0).any() or (number == 0 and part[0] != 0):
            raise BadPair(f"{index}: document {number + int((steps < 0).argmax())} starts before the previous one")
        previous = int(part[-1])
        number += len(part)
    if number == 0 or previous != header.num_sequences:
        raise BadPair(f"{index}: its documents end at sequence {previous}, there are {header.num_sequences}")


def _check_manifest(prefix: str, manifest: Manifest, header: IndexHeader, num_tokens: int) -> None:
    for name, actual, expected in (
        ("documents", header.num_marks - 1, manifest.documents),
        ("tokens", num_tokens, manifest.tokens),
    ):
        if actual != expected:
            raise BadPair(f"{prefix}: has {actual:,} {name}, its manifest says {expected:,}")
    if file_sha256(Path(f"{prefix}.idx")) != manifest.index_sha256:
        raise BadPair(f"{prefix}.idx: its checksum differs from the manifest")


def _check_tokens(path: Path, header: IndexHeader, vocab_size: int | None, parts: list[Part] | None) -> None:
    offset = 0
    with path.open("rb") as file:
        for part in parts or [Part(0, 0, 0, path.stat().st_size, "")]:
            start, checksum = offset, hashlib.sha256()
            for data in _blocks(file, part.bytes):
                _check_ids(path, np.frombuffer(data, header.dtype), offset, vocab_size)
                checksum.update(data)
                offset += len(data)
            if part.sha256 and checksum.hexdigest() != part.sha256:
                raise BadPair(f"{path}: the checksum of bytes {start} to {offset} differs from the manifest")


def _check_ids(path: Path, ids: NDArray[np.integer], offset: int, vocab_size: int | None) -> None:
    bad = ids < 0
    if vocab_size is not None:
        bad |= ids >= vocab_size
    if bad.any():
        first = int(bad.argmax())
        token = offset // ids.itemsize + first
        rule = "which is negative" if vocab_size is None else f"outside the vocabulary of {vocab_size}"
        raise BadPair(f"{path}: token {token} is {ids[first]}, {rule}")


def _blocks(file: BinaryIO, num_bytes: int) -> Iterator[bytes]:
    while num_bytes and (data := file.read(min(num_bytes, _BLOCK_BYTES))):
        yield data
        num_bytes -= len(data)
