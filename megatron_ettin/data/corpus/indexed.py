"""Reader of Megatron's .bin/.idx pair: token ids in one flat file, sequence and document boundaries in the other.

The format is that of megatron-core's IndexedDataset, byte for byte; reading and writing need numpy only. Tokens are
memory-mapped. Above LARGE_DOCUMENTS or LARGE_BYTES a corpus is *large*: its index is mapped instead of read and checked
in full, pages are not read ahead, and the indices built over it are cached on disk.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.corpus.file_mapping import map_file
from megatron_ettin.data.corpus.manifest import Manifest
from megatron_ettin.data.corpus.special_tokens import EndTokens
from megatron_ettin.errors import ConfigError

LARGE_DOCUMENTS = 2**20
LARGE_BYTES = 2**30

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
_CODES: dict[int, type[np.integer]] = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}

_SAMPLED_RUNS = 128
_RUN_DOCUMENTS = 32
"""Runs of adjacent documents, spread evenly over a large corpus, that show whether its documents end with [SEP]."""


@dataclass(frozen=True)
class IndexHeader:
    """The header of an index, and the offsets of the three tables that follow it."""

    dtype: np.dtype[np.integer]
    num_sequences: int
    num_marks: int
    """One more than there are documents."""

    @classmethod
    def read(cls, path: Path) -> IndexHeader:
        """Read the header.

        Raises:
            ConfigError: the file is not an index, or is shorter than its header states.
        """
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
        if len(header) < _HEADER.size or not header.startswith(MAGIC):
            raise ConfigError(f"--data-path: {path} is not an index of an indexed dataset (wrong first bytes)")
        _, version, code, num_sequences, num_marks = _HEADER.unpack(header)
        if version != VERSION or code not in _CODES:
            raise ConfigError(f"--data-path: {path} has version {version} and token type {code}, which is unknown")
        index = cls(np.dtype(_CODES[code]), num_sequences, num_marks)
        if size < index.num_bytes:
            raise ConfigError(f"--data-path: {path} has {size} bytes, its header says {index.num_bytes}: it is cut off")
        return index

    def to_bytes(self) -> bytes:
        """Return the header as it is stored in the file."""
        code = next(code for code, dtype in _CODES.items() if np.dtype(dtype) == self.dtype)
        return _HEADER.pack(MAGIC, VERSION, code, self.num_sequences, self.num_marks)

    @property
    def lengths_at(self) -> int:
        """Offset of the sequence lengths in tokens, int32."""
        return _HEADER.size

    @property
    def pointers_at(self) -> int:
        """Offset of the sequence offsets in the .bin in bytes, int64."""
        return self.lengths_at + 4 * self.num_sequences

    @property
    def marks_at(self) -> int:
        """Offset of the number of each document's first sequence, int64, and the number of sequences."""
        return self.pointers_at + 8 * self.num_sequences

    @property
    def num_bytes(self) -> int:
        """Size of the index file."""
        return self.marks_at + 8 * self.num_marks


class IndexedTokens:
    """A memory-mapped .bin/.idx pair.

    Attributes:
        tokens: all token ids, one document after the other.
        document_starts: offset of each document in ``tokens``, and the end; indexed like an int64 array [D + 1].
        is_large: whether the pair is above LARGE_DOCUMENTS or LARGE_BYTES.
    """

    def __init__(self, prefix: str | Path) -> None:
        """Open ``prefix``.bin and ``prefix``.idx.

        Raises:
            ConfigError: a file is missing or damaged, or the number of tokens differs from the index.
        """
        index_path, tokens_path = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
        for path in (index_path, tokens_path):
            if not path.is_file():
                raise ConfigError(f"--data-path {prefix}: there is no file {path}")
        header = IndexHeader.read(index_path)
        num_bytes = tokens_path.stat().st_size
        self.is_large = header.num_marks > LARGE_DOCUMENTS or num_bytes > LARGE_BYTES
        self.document_starts: NDArray[np.int64] | MappedStarts
        if self.is_large:
            self.document_starts = MappedStarts(index_path, header)
            num_tokens = self.document_starts.num_tokens
        else:
            self.document_starts, num_tokens = _read_starts(index_path, header)
        expected = num_tokens * header.dtype.itemsize
        if num_bytes != expected:
            raise ConfigError(f"--data-path {prefix}: {tokens_path} has {num_bytes} bytes, its index says {expected}")
        self._path = tokens_path
        self.tokens: NDArray[np.integer] = np.zeros(0, header.dtype)
        if num_bytes:
            self.tokens = map_file(tokens_path, random_access=self.is_large).view(header.dtype)

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        return len(self.document_starts) - 1

    def read(self, start: int, stop: int) -> NDArray[np.integer]:
        """Return ``tokens[start:stop]`` without mapping it: what is read once does not stay in resident memory."""
        dtype = self.tokens.dtype
        return np.fromfile(self._path, dtype, stop - start, offset=start * dtype.itemsize)


def _read_starts(path: Path, header: IndexHeader) -> tuple[NDArray[np.int64], int]:
    """Read an index and return the document starts and the number of tokens."""
    lengths = np.fromfile(path, np.int32, header.num_sequences, offset=header.lengths_at)
    marks = np.fromfile(path, np.int64, header.num_marks, offset=header.marks_at)  # pointers follow from the lengths
    if len(lengths) and lengths.min() < 0:
        raise _damaged(path, "a sequence of negative length")
    _check_marks(path, marks, header)
    if (np.diff(marks) < 0).any():
        raise _damaged(path, "document marks that do not ascend")
    starts = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    return starts[marks], int(starts[-1])


def _check_marks(path: Path, marks: NDArray[np.int64], header: IndexHeader) -> None:
    if len(marks) == 0 or marks[0] != 0 or marks[-1] != header.num_sequences:
        raise _damaged(path, f"document marks that do not cover its {header.num_sequences} sequences")


def _damaged(path: Path, what: str) -> ConfigError:
    return ConfigError(f"--data-path: {path} has {what}: it is damaged")


class MappedStarts:
    """Document starts of a large corpus, looked up in the mapped index on demand."""

    def __init__(self, path: Path, header: IndexHeader) -> None:
        """Map the tables of an index.

        Raises:
            ConfigError: the first and last entries of the tables contradict each other.
        """
        self._path = path
        self._header = header
        self._item = header.dtype.itemsize
        mapped = map_file(path, random_access=True)
        self._pointers = np.frombuffer(mapped, np.int64, header.num_sequences, header.pointers_at)
        self._marks = np.frombuffer(mapped, np.int64, header.num_marks, header.marks_at)
        _check_marks(path, self._marks, header)
        lengths = np.frombuffer(mapped, np.int32, header.num_sequences, header.lengths_at)
        self.num_tokens = int(self._pointers[-1]) // self._item + int(lengths[-1]) if len(lengths) else 0

    def __len__(self) -> int:
        return len(self._marks)

    def __getitem__(self, which: slice | NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the offsets of some documents.

        Raises:
            ConfigError: those of a slice do not ascend.
        """
        if not isinstance(which, slice):
            return self._of_marks(self._marks[which], self._pointers, 0)
        start, stop, step = which.indices(len(self))
        assert step == 1
        # Read instead of mapped: what is read once should not stay in resident memory.
        marks = np.fromfile(self._path, np.int64, max(0, stop - start), offset=self._header.marks_at + 8 * start)
        if len(marks) == 0:
            return marks
        if (np.diff(marks) < 0).any() or marks[-1] > self._header.num_sequences:
            raise _damaged(self._path, "document marks that do not ascend")
        first, last = int(marks[0]), min(int(marks[-1]) + 1, self._header.num_sequences)
        pointers = np.fromfile(self._path, np.int64, last - first, offset=self._header.pointers_at + 8 * first)
        starts = self._of_marks(marks, pointers, first)
        if (np.diff(starts) < 0).any():
            raise _damaged(self._path, "a sequence of negative length")
        return starts

    def _of_marks(self, marks: NDArray[np.int64], pointers: NDArray[np.int64], first: int) -> NDArray[np.int64]:
        """Return the offsets of sequences; ``pointers`` starts at sequence ``first``, and past the last is the end."""
        if len(pointers) == 0:
            return np.full(marks.shape, self.num_tokens, np.int64)
        inside = marks < self._header.num_sequences
        starts = pointers[np.where(inside, marks - first, 0)] // self._item
        return np.where(inside, starts, self.num_tokens)


def all_documents_closed(corpus: IndexedTokens, prefix: str | Path, sep_id: EndTokens | None) -> bool | None:
    """Return whether all documents of a large corpus end with [SEP], or none; None where each must be looked at.

    Reading the last token of every document would touch most of the file. The manifest states whether ``--append-eod``
    was given; without it, a sample of documents decides.
    """
    if sep_id is None or not corpus.is_large:
        return None
    manifest = Manifest.load(prefix)
    if manifest is not None and "--append-eod" in manifest.settings:
        appended = manifest.settings["--append-eod"]
        if appended is None:  # merged from pairs with and without it
            return None
        if appended:
            return True
    # Without --append-eod, token ids from elsewhere may still end with [SEP].
    first = np.unique(np.linspace(0, max(0, corpus.num_documents - _RUN_DOCUMENTS), _SAMPLED_RUNS).astype(np.int64))
    bounds = [corpus.document_starts[start : start + _RUN_DOCUMENTS + 1] for start in first.tolist()]
    ends = [int(end) for run in bounds for end in run[1:][np.diff(run) > 0]]
    closed = np.isin([corpus.read(end - 1, end)[0] for end in ends], sep_id)
    return bool(closed.all()) if closed.all() or not closed.any() else None
