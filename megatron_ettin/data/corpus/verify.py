"""Is a pair whole, does it fit its manifest, and is every token one of the vocabulary."""

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

_CHUNK_BYTES = 8 << 20


class BadPair(ValueError):
    """The first bad place of a pair."""


def verify_pair(prefix: str, vocab_size: int | None = None) -> str:
    """Read a pair whole; memory stays small.

    Args:
        prefix: of the pair.
        vocab_size: every token id must be below; by default the manifest tells.

    Returns:
        What was looked at, in a line.

    Raises:
        BadPair: the first bad place.
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
    """Check lengths and pointers against each other, and return the number of tokens."""
    lengths = read_table(index, header.lengths_at, np.int32, header.num_sequences)
    pointers = read_table(index, header.pointers_at, np.int64, header.num_sequences)
    end = number = 0
    for part, places in zip(lengths, pointers, strict=True):
        if part.min() < 0:
            raise BadPair(f"{index}: sequence {number + int((part < 0).argmax())} has a negative length")
        ends = end + np.cumsum(part, dtype=np.int64) * header.dtype.itemsize
        expected = np.concatenate(([end], ends[:-1]))
        if (places != expected).any():
            wrong = int((places != expected).argmax())
            rule = f"begins at byte {places[wrong]}, the lengths before it say {expected[wrong]}"
            raise BadPair(f"{index}: sequence {number + wrong} {rule}")
        end = int(ends[-1])
        number += len(part)
    return end // header.dtype.itemsize


def _check_marks(index: Path, header: IndexHeader) -> None:
    before = number = 0
    for part in read_table(index, header.marks_at, np.int64, header.num_marks):
        steps = np.diff(part, prepend=before)
        if (steps < 0).any() or (number == 0 and part[0] != 0):
            raise BadPair(
                f"{index}: document {number + int((steps < 0).argmax())} begins before the one in front of it"
            )
        before = int(part[-1])
        number += len(part)
    if number == 0 or before != header.num_sequences:
        raise BadPair(f"{index}: its documents end at sequence {before}, there are {header.num_sequences}")


def _check_manifest(prefix: str, manifest: Manifest, header: IndexHeader, num_tokens: int) -> None:
    for name, found, expected in (
        ("documents", header.num_marks - 1, manifest.documents),
        ("tokens", num_tokens, manifest.tokens),
    ):
        if found != expected:
            raise BadPair(f"{prefix}: has {found:,} {name}, its manifest says {expected:,}")
    if file_sha256(Path(f"{prefix}.idx")) != manifest.index_sha256:
        raise BadPair(f"{prefix}.idx: its checksum is not that of the manifest")


def _check_tokens(path: Path, header: IndexHeader, vocab_size: int | None, parts: list[Part] | None) -> None:
    with path.open("rb") as file:
        for part in parts or [Part(0, 0, 0, path.stat().st_size, "")]:
            start = file.tell()
            checksum = hashlib.sha256()
            for data in _chunks(file, part.bytes):
                _check_ids(path, np.frombuffer(data, header.dtype), file.tell() - len(data), vocab_size)
                checksum.update(data)
            if part.sha256 and checksum.hexdigest() != part.sha256:
                raise BadPair(f"{path}: bytes {start} to {file.tell()} have not the checksum of the manifest")


def _check_ids(path: Path, ids: NDArray[np.integer], offset: int, vocab_size: int | None) -> None:
    bad = ids < 0
    if vocab_size is not None:
        bad |= ids >= vocab_size
    if bad.any():
        place = int(bad.argmax())
        token = offset // ids.itemsize + place
        raise BadPair(f"{path}: token {token} is {ids[place]}, which is no id of a vocabulary of {vocab_size}")


def _chunks(file: BinaryIO, num_bytes: int) -> Iterator[bytes]:
    while num_bytes and (data := file.read(min(num_bytes, _CHUNK_BYTES))):
        yield data
        num_bytes -= len(data)
