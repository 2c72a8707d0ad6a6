"""Read-only memory mappings that keep no file descriptor.

Python's ``mmap`` keeps a duplicate of the descriptor while the mapping exists (before 3.13 always), and numpy's
memmap is built on it: a blend of a thousand sources would exhaust the limit of open files. These mappings come from
libc directly, so the file is closed as soon as it is mapped.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_FAILED = ctypes.c_void_p(-1).value


class _Mapping:
    """Owns a mapping and offers it to numpy; unmaps it when the last array over it is gone."""

    def __init__(self, address: int, size: int) -> None:
        self.__array_interface__ = {"data": (address, True), "shape": (size,), "typestr": "|u1", "version": 3}
        weakref.finalize(self, _LIBC.munmap, address, size)


def map_file(path: Path, *, random_access: bool = False) -> NDArray[np.uint8]:
    """Map a whole file and return its bytes; an empty file gives an empty array.

    Args:
        path: of the file.
        random_access: advise the kernel not to read ahead.

    Raises:
        OSError: the file cannot be opened or mapped.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return np.zeros(0, np.uint8)
        address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
        if address == _FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    if random_access:
        _LIBC.madvise(address, size, mmap.MADV_RANDOM)
    return np.asarray(_Mapping(address, size))


def map_array(path: Path) -> NDArray[np.generic]:
    """Map the array of a .npy file.

    Raises:
        OSError: the file cannot be opened or mapped.
        ValueError: it is not a .npy file of numbers in C order.
    """
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(file)
        offset = file.tell()
    if fortran_order or dtype.hasobject:
        raise ValueError(f"{path}: not an array of numbers in C order")
    count = int(np.prod(shape, dtype=np.int64))
    if count == 0:
        return np.zeros(shape, dtype)
    return np.frombuffer(map_file(path), dtype, count, offset).reshape(shape)
