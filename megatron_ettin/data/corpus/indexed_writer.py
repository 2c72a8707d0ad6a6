"""Writer of Megatron's .bin/.idx pair, byte for byte what megatron-core's IndexedDatasetBuilder writes."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from megatron_ettin.data.corpus.indexed import IndexHeader
from megatron_ettin.data.corpus.manifest import Part
from megatron_ettin.errors import ConfigError

_LARGEST_UINT16_VOCAB = 65_500


def token_dtype(vocab_size: int) -> type[np.integer]:
    """Return the type in which Megatron stores the ids of a vocabulary."""
    return np.uint16 if vocab_size < _LARGEST_UINT16_VOCAB else np.int32


def check_output_prefix(prefix: str) -> None:
    """Check that the folder of ``--output-prefix`` exists.

    Raises:
        ConfigError: it does not.
    """
    folder = Path(f"{prefix}.bin").absolute().parent
    if not folder.is_dir():
        raise ConfigError(f"--output-prefix {prefix}: there is no folder {folder}")


class IndexedWriter:
    """Writes a pair; the files get their names when the block ends without an exception.

    Use as ``with IndexedWriter(prefix, np.uint16) as writer: writer.add_document(ids)``.
    """

    def __init__(self, prefix: str | Path, dtype: DTypeLike, *, tag: str = "") -> None:
        """Open ``prefix``.bin under a temporary name; ``tag`` keeps it apart from another writer's."""
        self._final = {suffix: Path(f"{prefix}{suffix}") for suffix in (".bin", ".idx")}
        self._parts = {suffix: path.with_name(f"{path.name}{tag}.part") for suffix, path in self._final.items()}
        self._dtype: np.dtype[Any] = np.dtype(dtype)
        self._range = np.iinfo(self._dtype)
        self._lengths = array("i")
        self._marks = array("q", [0])
        self._checksum = hashlib.sha256()
        self._num_bytes = 0
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
        """Append many documents at once. Empty sequences are omitted, as by Megatron's tool.

        Args:
            tokens: of all documents, one after the other.
            lengths: tokens of each sequence.
            counts: non-empty sequences of each document; by default each sequence is a document.
        """
        assert lengths.sum() == len(tokens)
        marks = len(self._lengths) + np.cumsum(lengths > 0 if counts is None else counts, dtype=np.int64)
        self._write(tokens)
        self._lengths.frombytes(lengths[lengths > 0].astype(np.int32).tobytes())
        self._marks.frombytes(marks.tobytes())
        assert counts is None or self._marks[-1] == len(self._lengths)

    def summary(self) -> Part:
        """Return the sizes and the checksum of what has been written so far, for a manifest."""
        tokens = self._num_bytes // self._dtype.itemsize
        return Part(len(self._marks) - 1, len(self._lengths), tokens, self._num_bytes, self._checksum.hexdigest())

    def _write(self, tokens: NDArray[np.integer]) -> None:
        # numpy would silently wrap a larger id.
        assert len(tokens) == 0 or self._range.min <= tokens.min() <= tokens.max() <= self._range.max
        data = np.ascontiguousarray(tokens, dtype=self._dtype).data
        self._tokens.write(data)
        self._num_bytes += data.nbytes
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
        # An older index is removed first and the new one moved last: an interruption leaves no index of other tokens.
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
