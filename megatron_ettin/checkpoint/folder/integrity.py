"""Whether a file still holds what was written: its size and checksum. Stdlib only.

The checksum is CRC-32: it finds every flipped bit and every burst of up to 32, misses one random change in four
billion, and runs faster than disks read. It guards against damage, not against an adversary.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

FileFacts: TypeAlias = dict[str, Any]
"""What a marker tells of a file: ``bytes`` and, unless it is of an older version, ``crc32`` as eight hex digits."""

SMALL_FILE_BYTES = 2**24
"""Files up to this size are read wherever a checkpoint is looked at; longer ones once, before they are loaded."""

_BLOCK_BYTES = 2**22
_THREADS = 4
"""Readers of one process; they let go of the interpreter's lock while they read and count."""


def file_facts(path: Path) -> FileFacts:
    """Return size and checksum of a file."""
    size, checksum = 0, 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
    return {"bytes": size, "crc32": f"{checksum:08x}"}


def damage_by_size(path: Path, told: FileFacts) -> str:
    """Return what is wrong with a file by its size alone, in words; nothing where nothing is."""
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    return "" if size == told["bytes"] else f"has {size} bytes and was written with {told['bytes']}"


def damage(path: Path, told: FileFacts) -> str:
    """Return what is wrong with a file, its content included, in words; nothing where nothing is."""
    found = damage_by_size(path, told)
    if found or "crc32" not in told:
        return found
    try:
        checksum = file_facts(path)["crc32"]
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if checksum == told["crc32"] else f"has checksum {checksum} and was written with {told['crc32']}"


def first_damage(folder: Path, files: Mapping[str, FileFacts]) -> str:
    """Return name and damage of the first file, in order of names, that does not hold what is told of it."""
    names = sorted(files)
    with ThreadPoolExecutor(_THREADS) as readers:
        found = readers.map(lambda name: damage(folder / name, files[name]), names)
        return next((f"{name} {words}" for name, words in zip(names, found, strict=True) if words), "")


class ChecksummedFile:
    """A file opened for writing from its beginning to its end, which counts size and checksum as it goes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = 0
        self._checksum = 0
        self.error: OSError | None = None
        """What the disk said first; those who write through this file may tell something else."""

    @property
    def facts(self) -> FileFacts:
        """Size and checksum of all that was written."""
        return {"bytes": self._size, "crc32": f"{self._checksum:08x}"}

    def write(self, content: Any) -> int:
        """Write all of a bytes-like object."""
        try:
            self._file.write(content)
        except OSError as error:
            self.error = self.error or error
            raise
        view = memoryview(content)
        self._checksum = zlib.crc32(view, self._checksum)
        self._size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        """Return how much was written."""
        return self._size

    def flush(self) -> None:
        """Hand over to the system what is buffered."""
        self._file.flush()

    def fileno(self) -> int:
        """Return the descriptor, for fsync; what is buffered is handed over first."""
        self._file.flush()
        return self._file.fileno()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextmanager
def open_checksummed(path: Path) -> Iterator[ChecksummedFile]:
    """Open a new file for writing; whatever it replaces is emptied."""
    with path.open("wb") as file:
        yield ChecksummedFile(file)
