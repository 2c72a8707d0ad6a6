"""Locate the elements of a saved tensor in its file, to copy them without loading the tensor.

``torch.save`` writes a zip archive with one folder: ``data.pkl`` describes the tensor's layout in its storage, and
``data/0`` is the storage, uncompressed. A file of a distributed checkpoint is a sequence of such archives.
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
    """A byte range of a file."""

    path: Path
    begin: int
    num_bytes: int


class FileWindow(io.RawIOBase):
    """A byte range of a file as a file object; closing it does not close the file."""

    def __init__(self, file: io.BufferedReader, begin: int, num_bytes: int) -> None:
        self._file, self._begin, self._num_bytes, self._at = file, begin, num_bytes, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._num_bytes}[whence]
        if base + offset < 0:
            raise ValueError(f"no byte {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read into ``buffer``, up to the end of the window; return the number of bytes."""
        view = memoryview(buffer).cast("B")
        self._file.seek(self._begin + self._at)
        num_read = self._file.readinto(view[: max(0, self._num_bytes - self._at)])
        self._at += num_read
        return num_read


def find_elements(
    file: io.BufferedReader, begin: int, num_bytes: int, shape: tuple[int, ...], dtype: torch.dtype
) -> int | None:
    """Return where the elements of a saved tensor begin in ``file``, if they are contiguous there.

    Args:
        file: opened for reading.
        begin: the first byte of the archive.
        num_bytes: its length.
        shape: expected shape.
        dtype: expected type.

    Returns:
        The position in the file; None for a tensor of another layout or type, which torch.load has to read.

    Raises:
        Exception: the archive is damaged; the type depends on the damage.
    """
    window = io.BufferedReader(FileWindow(file, begin, num_bytes))
    with zipfile.ZipFile(window) as archive:
        entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        tensor = _TensorUnpickler(archive.open(entries["data.pkl"])).load()
        order = archive.read(entries["byteorder"]).decode() if "byteorder" in entries else sys.byteorder
        elements = entries.get("data/0")
    expected = _Saved(dtype, 0, shape, _contiguous_strides(shape))
    if tensor != expected or order != sys.byteorder or elements is None:
        return None
    if elements.compress_type != zipfile.ZIP_STORED or elements.file_size != math.prod(shape) * dtype.itemsize:
        return None
    window.seek(elements.header_offset + _NAME_LENGTHS_AT)
    lengths = _NAME_LENGTHS.unpack(window.read(_NAME_LENGTHS.size))
    start = elements.header_offset + _LOCAL_HEADER_BYTES + sum(lengths)
    if start + elements.file_size > num_bytes:
        raise ValueError("its elements extend beyond its end")
    return begin + start


@dataclass(frozen=True)
class _Saved:
    """Layout of a tensor in its storage."""

    dtype: torch.dtype | None
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


class _TensorUnpickler(pickle.Unpickler):
    """Reads the layout of a saved tensor; constructs neither tensors nor other objects that the file names."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *rest: _Saved(storage, offset, tuple(shape), tuple(strides))
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        return _nothing

    def persistent_load(self, pid: Any) -> Any:
        """Return the type of the first storage, None for others, which are not read."""
        _, dtype, key, *_ = pid
        return dtype if key == "0" else None


def _nothing(*arguments: Any) -> Any:
    return _nothing  # the result may be called again
