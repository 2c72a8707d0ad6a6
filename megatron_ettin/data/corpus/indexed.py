"""Megatron's .bin/.idx pair: token ids in one flat file, where sequences and documents begin in the other.

The format is megatron-core's IndexedDataset, byte for byte; this reader and writer need numpy only.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from megatron_ettin.data.corpus.manifest import Part
from megatron_ettin.errors import ConfigError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
_CODES: dict[int, type[np.integer]] = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
_LARGEST_UINT16_VOCAB = 65_500


def token_dtype(vocab_size: int) -> type[np.integer]:
    """Return the type Megatron stores ids of such a vocabulary in."""
    return np.uint16 if vocab_size < _LARGEST_UINT16_VOCAB else np.int32


class IndexedTokens:
    """A corpus on disk: opening reads the index, and tokens are read from the memory-mapped file as they are used.

    Attributes:
        tokens: all token ids, one after the other.
        document_starts: where each document begins in ``tokens``, and behind the last entry the end; int64 [D + 1].
    """

    tokens: NDArray[np.integer]
    document_starts: NDArray[np.int64]

    def __init__(self, prefix: str | Path) -> None:
        """Open ``prefix``.bin and ``prefix``.idx.

        Raises:
            ConfigError: a file is missing or damaged, or the tokens are fewer or more than the index says.
        """
        index_path, tokens_path = pair_paths(prefix)
        dtype, lengths, documents = _read_index(index_path)
        starts = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        check_token_bytes(prefix, int(starts[-1]) * dtype.itemsize)
        # A plain array over the mapped file: slicing numpy's memmap class costs several times as much.
        self.tokens = np.asarray(np.memmap(tokens_path, dtype=dtype, mode="r")) if starts[-1] else np.zeros(0, dtype)
        self.document_starts = starts[documents]

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        return len(self.document_starts) - 1

    @property
    def document_lengths(self) -> NDArray[np.int64]:
        """Tokens in each document."""
        return np.diff(self.document_starts)

    def document(self, number: int) -> NDArray[np.integer]:
        """Return the tokens of one document, as a view of the file."""
        return self.tokens[self.document_starts[number] : self.document_starts[number + 1]]


def pair_paths(prefix: str | Path) -> tuple[Path, Path]:
    """Return where the index and the tokens of a pair lie.

    Raises:
        ConfigError: one of them is missing.
    """
    paths = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"--data-path {prefix}: there is no file {path}")
    return paths


def check_output_prefix(prefix: str) -> None:
    """Refuse a name for new pairs whose folder is not there.

    Raises:
        ConfigError: there is no such folder.
    """
    folder = Path(f"{prefix}.bin").absolute().parent
    if not folder.is_dir():
        raise ConfigError(f"--output-prefix {prefix}: there is no folder {folder}")


def check_token_bytes(prefix: str | Path, expected: int) -> None:
    """Raise ConfigError unless the .bin of a pair is as long as its index says, in bytes."""
    path = Path(f"{prefix}.bin")
    found = path.stat().st_size
    if found != expected:
        raise ConfigError(f"--data-path {prefix}: {path} has {found} bytes, its index says {expected}")


@dataclass(frozen=True)
class IndexHeader:
    """What the first bytes of an index say, and where its three tables begin."""

    dtype: np.dtype[np.integer]
    num_sequences: int
    num_marks: int
    """One more than there are documents."""

    @classmethod
    def read(cls, path: Path) -> IndexHeader:
        """Read the header.

        Raises:
            ConfigError: the file is no index, or shorter than its header says.
        """
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
        if len(header) < _HEADER.size or not header.startswith(MAGIC):
            raise ConfigError(f"--data-path: {path} is no index of an indexed dataset (wrong first bytes)")
        _, version, code, num_sequences, num_marks = _HEADER.unpack(header)
        if version != VERSION or code not in _CODES:
            raise ConfigError(f"--data-path: {path} has version {version} and token type {code}, which is unknown")
        found = cls(np.dtype(_CODES[code]), num_sequences, num_marks)
        if size < found.num_bytes:
            raise ConfigError(
                f"--data-path: {path} has {size} bytes, its header says {found.num_bytes}: it was cut off"
            )
        return found

    def to_bytes(self) -> bytes:
        """Return the header as it stands in the file."""
        code = next(code for code, dtype in _CODES.items() if np.dtype(dtype) == self.dtype)
        return _HEADER.pack(MAGIC, VERSION, code, self.num_sequences, self.num_marks)

    @property
    def lengths_at(self) -> int:
        """Where the int32 tokens of each sequence begin."""
        return _HEADER.size

    @property
    def pointers_at(self) -> int:
        """Where the int64 places of the sequences in the .bin begin, in bytes."""
        return self.lengths_at + 4 * self.num_sequences

    @property
    def marks_at(self) -> int:
        """Where the int64 number of each document's first sequence begins, with the end behind."""
        return self.pointers_at + 8 * self.num_sequences

    @property
    def num_bytes(self) -> int:
        """Of the whole index."""
        return self.marks_at + 8 * self.num_marks


def _read_index(path: Path) -> tuple[np.dtype[np.integer], NDArray[np.int32], NDArray[np.int64]]:
    """Return token type, sequence lengths and, per document, the number of its first sequence (with an end entry)."""
    header = IndexHeader.read(path)
    lengths = np.fromfile(path, np.int32, header.num_sequences, offset=header.lengths_at)
    marks = np.fromfile(path, np.int64, header.num_marks, offset=header.marks_at)  # pointers follow from the lengths
    if len(lengths) and lengths.min() < 0:
        raise ConfigError(f"--data-path: {path} holds a sequence of negative length: it is damaged")
    if len(marks) == 0 or marks[0] != 0 or marks[-1] != len(lengths) or (np.diff(marks) < 0).any():
        raise ConfigError(f"--data-path: {path} has document marks that do not cover its {len(lengths)} sequences")
    return header.dtype, lengths, marks


class IndexedWriter:
    """Writes a pair; the files appear under their names when the block ends without an exception.

    Use as ``with IndexedWriter(prefix, np.uint16) as writer: writer.add_document(ids)``.
    """

    def __init__(self, prefix: str | Path, dtype: DTypeLike, *, tag: str = "") -> None:
        """Begin ``prefix``.bin under a temporary name, which ``tag`` keeps apart from another writer's."""
        self._final = {suffix: Path(f"{prefix}{suffix}") for suffix in (".bin", ".idx")}
        self._parts = {suffix: path.with_name(f"{path.name}{tag}.part") for suffix, path in self._final.items()}
        self._dtype: np.dtype[Any] = np.dtype(dtype)
        self._range = np.iinfo(self._dtype)
        self._lengths = array("i")
        self._marks = array("q", [0])
        self._checksum = hashlib.sha256()
        self._tokens = self._parts[".bin"].open("wb")

    def add_document(self, *sequences: Sequence[int] | NDArray[np.integer]) -> None:
        """Append one document of one or more sequences."""
        for sequence in sequences:
            self._write(np.asarray(sequence))
            self._lengths.append(len(sequence))
        self._marks.append(len(self._lengths))

    def add_documents(
        self,
        tokens: NDArray[np.integer],
        lengths: NDArray[np.integer],
        counts: NDArray[np.integer] | None = None,
    ) -> None:
        """Append many documents at once. An empty sequence is left out, as Megatron's tool does.

        Args:
            tokens: of all documents, one after the other.
            lengths: tokens of each sequence.
            counts: sequences of each document, empty ones left out; by default each sequence is a document.
        """
        assert lengths.sum() == len(tokens)
        marks = len(self._lengths) + np.cumsum(lengths > 0 if counts is None else counts, dtype=np.int64)
        self._write(tokens)
        self._lengths.frombytes(lengths[lengths > 0].astype(np.int32).tobytes())
        self._marks.frombytes(marks.tobytes())
        assert counts is None or self._marks[-1] == len(self._lengths)

    def summary(self) -> Part:
        """Return what has been written so far, for a manifest."""
        num_bytes = self._tokens.tell()
        tokens = num_bytes // self._dtype.itemsize
        return Part(len(self._marks) - 1, len(self._lengths), tokens, num_bytes, self._checksum.hexdigest())

    def _write(self, tokens: NDArray[np.integer]) -> None:
        # numpy would wrap a larger id around without a word.
        assert len(tokens) == 0 or self._range.min <= tokens.min() <= tokens.max() <= self._range.max
        data = np.ascontiguousarray(tokens, dtype=self._dtype).data
        self._tokens.write(data)
        self._checksum.update(data)

    def __enter__(self) -> IndexedWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._tokens.close()
            if kind is None:
                self._write_index()
                self._publish()
        finally:
            for part in self._parts.values():
                part.unlink(missing_ok=True)

    def _publish(self) -> None:
        # The index comes last and an older one goes first: whenever this is interrupted, no index fits other tokens.
        self._final[".idx"].unlink(missing_ok=True)
        for suffix in (".bin", ".idx"):
            self._parts[suffix].replace(self._final[suffix])

    def _write_index(self) -> None:
        lengths = np.frombuffer(self._lengths, dtype=np.int32)
        header = IndexHeader(self._dtype, len(lengths), len(self._marks))
        pointers = np.zeros(len(lengths), dtype=np.int64)
        np.cumsum(lengths[:-1].astype(np.int64) * self._dtype.itemsize, out=pointers[1:])
        with self._parts[".idx"].open("wb") as file:
            file.write(header.to_bytes())
            file.write(lengths.tobytes())
            file.write(pointers.tobytes())
            file.write(self._marks.tobytes())
