"""Concatenation of pairs as a stream: memory is bounded and offsets have 64 bits, whatever the size."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.corpus.indexed import IndexHeader
from megatron_ettin.data.corpus.indexed_writer import check_output_prefix
from megatron_ettin.data.corpus.manifest import Manifest, join_manifests, manifest_path, missing_shares
from megatron_ettin.errors import ConfigError
from megatron_ettin.files import file_sha256, flush_to_disk

_ENTRIES_AT_ONCE = 1 << 20
"""Entries of an index table that are in memory at a time."""


def merge_pairs(prefixes: Sequence[str], output_prefix: str, *, partial: bool = False) -> IndexHeader:
    """Write a pair with the documents of all ``prefixes`` in this order, and its manifest if each has one.

    Args:
        prefixes: of the pairs.
        output_prefix: of the pair to write.
        partial: merge some shares of a run without the others.

    Returns:
        The header of the index that was written.

    Raises:
        ConfigError: a pair or a share of a run is missing, a pair is damaged, pairs differ in token type or tokenizer,
            or the output is an input or has no folder.
    """
    header = _common_header(prefixes, output_prefix)
    joined = _joined_manifest(prefixes, partial=partial)
    final = {suffix: Path(f"{output_prefix}{suffix}") for suffix in (".bin", ".idx")}
    parts = {suffix: path.with_name(path.name + ".part") for suffix, path in final.items()}
    try:
        with parts[".bin"].open("wb") as target:
            for prefix in prefixes:
                append_file(Path(f"{prefix}.bin"), target)
        written = write_joined_index([Path(f"{prefix}.idx") for prefix in prefixes], header.dtype, parts[".idx"])
        for part in parts.values():
            flush_to_disk(part)  # the inputs may be deleted next
        final[".idx"].unlink(missing_ok=True)
        manifest_path(output_prefix).unlink(missing_ok=True)
        for suffix in (".bin", ".idx"):
            parts[suffix].replace(final[suffix])
        if joined:
            replace(joined, index_sha256=file_sha256(final[".idx"])).save(output_prefix)
        flush_to_disk(final[".idx"].absolute().parent)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return written


def _common_header(prefixes: Sequence[str], output_prefix: str) -> IndexHeader:
    """Return the header of the first pair after checking that all others can be appended to it."""
    check_output_prefix(output_prefix)
    headers = [_checked_header(prefix) for prefix in prefixes]
    for prefix, header in zip(prefixes, headers, strict=True):
        if header.dtype != headers[0].dtype:
            rule = f"has {header.dtype} tokens and {prefixes[0]} {headers[0].dtype}: their vocabularies differ"
            raise ConfigError(f"--input {prefix}: {rule}")
        if Path(f"{prefix}.bin").absolute() == Path(f"{output_prefix}.bin").absolute():
            raise ConfigError(f"--output-prefix {output_prefix}: is one of the inputs")
    return headers[0]


def _joined_manifest(prefixes: Sequence[str], *, partial: bool) -> Manifest | None:
    """Return the manifest of all pairs without its index's checksum; None if a pair has no manifest."""
    loaded = [(manifest, prefix) for prefix in prefixes if (manifest := Manifest.load(prefix)) is not None]
    manifests, names = [manifest for manifest, _ in loaded], [prefix for _, prefix in loaded]
    missing = missing_shares(manifests, names)
    if missing and not partial:
        raise ConfigError(f"--input: {'; '.join(missing)}; --partial merges anyway")
    return join_manifests(manifests, names) if len(manifests) == len(prefixes) else None


def pairs_in(folder: Path) -> list[str]:
    """Return the prefixes of all pairs in a folder, by name."""
    return sorted(str(path.with_suffix("")) for path in folder.glob("*.idx"))


def append_file(source: Path, target: BinaryIO) -> None:
    """Append a file to an open one inside the kernel; holes of sparse files stay holes."""
    end = target.seek(0, os.SEEK_END)
    size = source.stat().st_size
    with source.open("rb") as file:
        place = 0
        while place < size:
            try:
                place = os.lseek(file.fileno(), place, os.SEEK_DATA)
            except OSError:  # a hole up to the end
                break
            stop = os.lseek(file.fileno(), place, os.SEEK_HOLE)
            os.lseek(file.fileno(), place, os.SEEK_SET)
            os.lseek(target.fileno(), end + place, os.SEEK_SET)
            _copy(file.fileno(), target.fileno(), stop - place)
            place = stop
    os.ftruncate(target.fileno(), end + size)
    target.seek(end + size)


def _copy(source: int, target: int, num_bytes: int) -> None:
    """Copy from the current offsets of both descriptors, inside the kernel if the file systems support it."""
    try:
        while num_bytes and (copied := os.copy_file_range(source, target, min(num_bytes, 1 << 30))):
            num_bytes -= copied
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    while num_bytes and (data := os.read(source, min(num_bytes, 1 << 20))):
        num_bytes -= len(data)
        while data:
            data = data[os.write(target, data) :]
    if num_bytes:
        raise ConfigError("a file became shorter while it was copied")


def write_joined_index(indices: Sequence[Path], dtype: np.dtype[np.integer], target: Path) -> IndexHeader:
    """Write the index of concatenated pairs; memory does not grow with their size."""
    headers = [IndexHeader.read(path) for path in indices]
    merged = IndexHeader(
        np.dtype(dtype),
        num_sequences=sum(header.num_sequences for header in headers),
        num_marks=sum(header.num_marks - 1 for header in headers) + 1,
    )
    with target.open("wb") as file:
        file.write(merged.to_bytes())
        for path, header in zip(indices, headers, strict=True):
            for lengths in read_table(path, header.lengths_at, np.int32, header.num_sequences):
                file.write(lengths.data)
        end = 0
        for path, header in zip(indices, headers, strict=True):
            for lengths in read_table(path, header.lengths_at, np.int32, header.num_sequences):
                ends = end + np.cumsum(lengths, dtype=np.int64) * merged.dtype.itemsize
                file.write(np.concatenate(([end], ends[:-1])).astype(np.int64).data)
                end = int(ends[-1])
        file.write(np.zeros(1, np.int64).data)
        sequences = 0
        for path, header in zip(indices, headers, strict=True):
            for marks in read_table(path, header.marks_at + 8, np.int64, header.num_marks - 1):
                file.write((marks + sequences).data)
            sequences += header.num_sequences
    return merged


def read_table(path: Path, offset: int, dtype: type[np.integer], count: int) -> Iterator[NDArray[np.integer]]:
    """Yield the entries of a table in a file, a bounded number at a time."""
    with path.open("rb") as file:
        file.seek(offset)
        while count:
            entries = np.fromfile(file, dtype, min(count, _ENTRIES_AT_ONCE))
            yield entries
            count -= len(entries)


def _checked_header(prefix: str) -> IndexHeader:
    """Return the header of a pair after checking the size of its .bin."""
    index, tokens = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    for path in (index, tokens):
        if not path.is_file():
            raise ConfigError(f"--input {prefix}: there is no file {path}")
    header = IndexHeader.read(index)
    lengths = read_table(index, header.lengths_at, np.int32, header.num_sequences)
    expected = sum(int(part.sum(dtype=np.int64)) for part in lengths) * header.dtype.itemsize
    size = tokens.stat().st_size
    if size != expected:
        raise ConfigError(f"--input {prefix}: {tokens} has {size} bytes, its index says {expected}")
    return header
