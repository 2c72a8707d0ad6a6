"""A corpus too large to read its index whole: both files stay on disk and are looked into where needed."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from megatron_ettin.data.corpus.indexed import IndexedTokens, IndexHeader, check_token_bytes, pair_paths
from megatron_ettin.data.corpus.manifest import Manifest
from megatron_ettin.errors import ConfigError

LARGE_DOCUMENTS = 2**20
LARGE_BYTES = 2**30
"""From so many documents or bytes of tokens on, a corpus is not read to tell what it is like, and indices are kept."""

_STRETCHES = 128
_STRETCH = 32
"""Documents, in stretches spread evenly, by which one tells whether [SEP] closes them."""


class MappedTokens:
    """A .bin/.idx pair seen as :class:`IndexedTokens` shows it; opening takes the same time whatever its size.

    Attributes:
        tokens: all token ids, one after the other.
        document_starts: indexed like an int64 array [D + 1].
    """

    def __init__(self, prefix: str | Path) -> None:
        """Open ``prefix``.bin and ``prefix``.idx.

        Raises:
            ConfigError: a file is missing or damaged, or the tokens are fewer or more than the index says.
        """
        index_path, tokens_path = pair_paths(prefix)
        header = IndexHeader.read(index_path)
        self.document_starts = DocumentStarts(index_path, header)
        num_tokens = self.document_starts.num_tokens
        check_token_bytes(prefix, num_tokens * header.dtype.itemsize)
        self.tokens = _map(tokens_path, header.dtype, 0, num_tokens)

        self.stored_tokens = StoredTokens(tokens_path, header.dtype, num_tokens)
        """The same, read instead of mapped: what is looked at once does not stay in this process's memory."""

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        return len(self.document_starts) - 1


class StoredTokens:
    """Tokens of a file, sliced like an array and read anew each time."""

    def __init__(self, path: Path, dtype: np.dtype[np.integer], count: int) -> None:
        """Name the file and how many tokens it holds."""
        self._path = path
        self._dtype = dtype
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, which: slice) -> NDArray[np.integer]:
        begin, end, step = which.indices(self._count)
        assert step == 1
        return np.fromfile(self._path, self._dtype, max(0, end - begin), offset=begin * self._dtype.itemsize)


class DocumentStarts:
    """Where documents begin, in tokens, read from the index file on demand."""

    def __init__(self, path: Path, header: IndexHeader) -> None:
        """Map the tables of an index.

        Raises:
            ConfigError: its first and last entries contradict each other.
        """
        self._path = path
        self._header = header
        self._item = header.dtype.itemsize
        self._pointers = _map(path, np.int64, header.pointers_at, header.num_sequences)
        self._marks = _map(path, np.int64, header.marks_at, header.num_marks)
        if len(self._marks) == 0 or self._marks[0] != 0 or self._marks[-1] != header.num_sequences:
            raise ConfigError(f"--data-path: {path} has document marks that do not cover its sequences")
        last = _map(path, np.int32, header.lengths_at, header.num_sequences)[-1:]
        self.num_tokens = int(self._pointers[-1]) // self._item + int(last[0]) if len(last) else 0

    def __len__(self) -> int:
        return len(self._marks)

    def __getitem__(self, which: slice | int | NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the starts of some documents.

        Raises:
            ConfigError: a stretch of them does not ascend.
        """
        if not isinstance(which, slice):
            return self._of_marks(np.asarray(self._marks[which]), self._pointers, 0)
        begin, end, step = which.indices(len(self))
        assert step == 1
        # Read, not mapped: what was looked at once shall not stay in this process's memory.
        marks = np.fromfile(self._path, np.int64, max(0, end - begin), offset=self._header.marks_at + 8 * begin)
        if len(marks) == 0:
            return marks
        if (np.diff(marks) < 0).any() or marks[-1] > self._header.num_sequences:
            raise ConfigError(f"--data-path: {self._path} has document marks that do not ascend: it is damaged")
        first, last = int(marks[0]), min(int(marks[-1]) + 1, self._header.num_sequences)
        pointers = np.fromfile(self._path, np.int64, last - first, offset=self._header.pointers_at + 8 * first)
        starts = self._of_marks(marks, pointers, first)
        if (np.diff(starts) < 0).any():
            raise ConfigError(f"--data-path: {self._path} holds a sequence of negative length: it is damaged")
        return starts

    def _of_marks(self, marks: NDArray[np.int64], pointers: NDArray[np.integer], first: int) -> NDArray[np.int64]:
        """Return where the sequences of these numbers begin; behind the last one is the end."""
        if len(pointers) == 0:
            return np.full(marks.shape, self.num_tokens, np.int64)
        inside = marks < self._header.num_sequences
        starts = pointers[np.where(inside, marks - first, 0)] // self._item
        return np.where(inside, starts, self.num_tokens)


def _map(path: Path, kind: DTypeLike, offset: int, count: int) -> NDArray[np.integer]:
    """Map a table of a file in which a run jumps about: what lies around a page it needs is not read ahead."""
    if count == 0:
        return np.zeros(0, kind)
    dtype = np.dtype(kind)
    begin = offset - offset % mmap.ALLOCATIONGRANULARITY
    with path.open("rb") as file:
        mapped = mmap.mmap(
            file.fileno(), offset - begin + count * dtype.itemsize, access=mmap.ACCESS_READ, offset=begin
        )
    mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, dtype, count, offset - begin)


def open_tokens(prefix: str | Path) -> IndexedTokens | MappedTokens:
    """Open a corpus in the way that fits its size.

    Raises:
        ConfigError: a file is missing or damaged.
    """
    index, tokens = pair_paths(prefix)
    is_large = IndexHeader.read(index).num_marks > LARGE_DOCUMENTS or tokens.stat().st_size > LARGE_BYTES
    return MappedTokens(prefix) if is_large else IndexedTokens(prefix)


def all_documents_closed(corpus: IndexedTokens | MappedTokens, prefix: str | Path, sep_id: int | None) -> bool | None:
    """Return whether every document ends with [SEP], or none does; None where each must be looked at.

    Reading the last token of every document of a large corpus would touch most of its file. Its manifest tells where
    ``--append-eod`` was given; else documents spread evenly over it tell.
    """
    if sep_id is None or not isinstance(corpus, MappedTokens):
        return None
    manifest = Manifest.load(prefix)
    if manifest is not None and "--append-eod" in manifest.settings:
        told = manifest.settings["--append-eod"]
        if told is None:  # of pairs that were merged, some were written with it
            return None
        if told:
            return True
    # Not asked for, yet ready ids may have brought it along.
    # Read, not mapped, as what is looked at once; in stretches, which an index is read in.
    begins = np.unique(np.linspace(0, max(0, corpus.num_documents - _STRETCH), _STRETCHES).astype(np.int64))
    bounds = [corpus.document_starts[begin : begin + _STRETCH + 1] for begin in begins.tolist()]
    ends = [int(end) for part in bounds for end in part[1:][np.diff(part) > 0]]
    closed = np.array([corpus.stored_tokens[end - 1 : end][0] == sep_id for end in ends])
    return bool(closed.all()) if closed.all() or not closed.any() else None
