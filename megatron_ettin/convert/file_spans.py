"""Finding a saved tensor's elements in its file, so that they can be copied without being read.

``torch.save`` writes a zip archive with everything below one folder: ``data.pkl`` tells how the tensor lies in its
storage, ``data/0`` is the storage, uncompressed. Files of distributed checkpoints are such archives end to end.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_STORAGES = {"FloatStorage": torch.float32, "BFloat16Storage": torch.bfloat16, "HalfStorage": torch.float16}
_NAME_LENGTHS = struct.Struct("<HH")
_LOCAL_HEADER_BYTES, _NAME_LENGTHS_AT = 30, 26


@dataclass(frozen=True)
class FileSpan:
    """Some bytes of a file."""

    path: Path
    begin: int
    num_bytes: int


class FileWindow(io.RawIOBase):
    """Some bytes of a file as a file of their own; the file under it is not closed with it."""

    def __init__(self, file: io.BufferedReader, begin: int, num_bytes: int) -> None:
        self._file, self._begin, self._num_bytes, self._at = file, begin, num_bytes, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._num_bytes}[whence]
        if base + offset < 0:
            raise ValueError(f"no byte {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` as far as the window reaches."""
        view = memoryview(buffer).cast("B")
        self._file.seek(self._begin + self._at)
        num_read = self._file.readinto(view[: max(0, self._num_bytes - self._at)])
        self._at += num_read
        return num_read


def find_elements(
    file: io.BufferedReader, begin: int, num_bytes: int, shape: tuple[int, ...], dtype: torch.dtype
) -> int | None:
    """Return where in ``file`` the elements of a saved tensor begin, when they lie there one after the other.

    Args:
        file: opened for reading.
        begin: the first byte of the archive.
        num_bytes: its length.
        shape: what the tensor must have.
        dtype: what the tensor must have.

    Returns:
        The place in the file. None where it is a tensor that lies otherwise or is of another kind: torch.load knows.

    Raises:
        Exception: the archive is damaged; which one depends on the damage.
    """
    window = io.BufferedReader(FileWindow(file, begin, num_bytes))
    with zipfile.ZipFile(window) as archive:
        entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        tensor = _TensorUnpickler(archive.open(entries["data.pkl"])).load()
        order = archive.read(entries["byteorder"]).decode() if "byteorder" in entries else sys.byteorder
        elements = entries.get("data/0")
    wanted = _Saved(dtype, 0, shape, _strides_of_rows(shape))
    if tensor != wanted or order != sys.byteorder or elements is None:
        return None
    if elements.compress_type != zipfile.ZIP_STORED or elements.file_size != math.prod(shape) * dtype.itemsize:
        return None
    window.seek(elements.header_offset + _NAME_LENGTHS_AT)
    lengths = _NAME_LENGTHS.unpack(window.read(_NAME_LENGTHS.size))
    start = elements.header_offset + _LOCAL_HEADER_BYTES + sum(lengths)
    if start + elements.file_size > num_bytes:
        raise ValueError("its elements reach past its end")
    return begin + start


@dataclass(frozen=True)
class _Saved:
    """How a tensor lies in its storage."""

    dtype: torch.dtype | None
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _strides_of_rows(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


class _TensorUnpickler(pickle.Unpickler):
    """Reads how a tensor is saved; builds none, and nothing else that the file names."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *rest: _Saved(storage, offset, tuple(shape), tuple(strides))
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        return _nothing

    def persistent_load(self, told: Any) -> Any:
        """Return the type of a storage; only the first one's bytes are looked at."""
        _, dtype, key, *_ = told
        return dtype if key == "0" else None


def _nothing(*arguments: Any) -> Any:
    return _nothing  # what is made by calling may itself be called
