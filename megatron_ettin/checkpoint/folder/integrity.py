"""The marker of a complete checkpoint, and whether its files are still what was written. Standard library only.

The checksum is CRC-32: it detects every flipped bit and every burst of up to 32, misses one random change in four
billion, and is faster than disks read. It guards against damage, not against an adversary.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from megatron_ettin.errors import ConfigError
from megatron_ettin.files import flush_to_disk, write_json_atomic

MARKER_FILE = "complete.json"

FileRecord: TypeAlias = dict[str, Any]
"""What the marker records of a file: ``bytes`` and, except in older versions, ``crc32`` as eight hex digits."""

SMALL_FILE_BYTES = 2**24
"""Files up to this size are read whenever a checkpoint is resolved; larger ones once, before they are loaded."""

_BLOCK_BYTES = 2**22
_THREADS = 4
"""Readers of one process; reading and CRC-32 both release the interpreter lock."""


class DamagedCheckpoint(ConfigError):
    """A checkpoint that was complete and has been damaged since."""


def is_complete(folder: Path) -> bool:
    """Return whether the folder has the marker, that is, whether all of it was written."""
    return (folder / MARKER_FILE).is_file()


def mark_complete(folder: Path, known: Mapping[str, FileRecord] | None = None) -> None:
    """Write the marker with sizes and checksums of all files; everything in the folder must be written and closed.

    All files are flushed to the disk first, so that no marker survives a file that it records.

    Args:
        folder: of one step.
        known: records made while writing, by path inside the folder; other files are read.
    """
    known = known or {}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MARKER_FILE)
    for path in files:
        flush_to_disk(path)
    for inner in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        flush_to_disk(inner)
    names = {str(path.relative_to(folder)): path for path in files}
    records = {name: known[name] if name in known else file_record(path) for name, path in names.items()}
    write_json_atomic(folder / MARKER_FILE, {"files": records})


def check_small_files(folder: Path) -> None:
    """Compare the files of a complete checkpoint with its marker: all sizes, and the checksums of small files.

    Raises:
        DamagedCheckpoint: naming the file.
    """
    records = _read_records(folder)
    sizes = ((name, size_damage(folder / name, record)) for name, record in records.items())
    _refuse(folder, next((f"{name} {damage}" for name, damage in sizes if damage), ""))
    _refuse(folder, first_damage(folder, {name: record for name, record in records.items() if _is_small(record)}))


def check_large_files(folder: Path, *, part: int = 0, num_parts: int = 1) -> None:
    """Compare the checksums of large files with the marker; each rank checks one part of the files.

    Raises:
        DamagedCheckpoint: naming the file.
    """
    large = {name: record for name, record in _read_records(folder).items() if not _is_small(record)}
    mine = sorted(large)[part::num_parts]
    _refuse(folder, first_damage(folder, {name: large[name] for name in mine}))


def file_record(path: Path) -> FileRecord:
    """Return size and checksum of a file."""
    size, checksum = 0, 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
    return _record(size, checksum)


def size_damage(path: Path, record: FileRecord) -> str:
    """Describe what is wrong with a file by its size alone; "" if nothing is."""
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    return "" if size == record["bytes"] else f"has {size} bytes and was written with {record['bytes']}"


def damage(path: Path, record: FileRecord) -> str:
    """Describe what is wrong with a file, its content included; "" if nothing is."""
    wrong_size = size_damage(path, record)
    if wrong_size or "crc32" not in record:
        return wrong_size
    try:
        checksum = file_record(path)["crc32"]
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if checksum == record["crc32"] else f"has checksum {checksum} and was written with {record['crc32']}"


def first_damage(folder: Path, records: Mapping[str, FileRecord]) -> str:
    """Return name and damage of the first damaged file, in order of names; "" if there is none."""
    names = sorted(records)
    with ThreadPoolExecutor(_THREADS) as readers:
        damages = readers.map(lambda name: damage(folder / name, records[name]), names)
        return next((f"{name} {text}" for name, text in zip(names, damages, strict=True) if text), "")


class ChecksummedFile:
    """A file written from start to end that counts size and checksum on the way."""

    def __init__(self, file: BinaryIO) -> None:
        """Wrap an open, empty file."""
        self._file = file
        self._size = 0
        self._checksum = 0
        self.error: OSError | None = None
        """The first error of the disk; callers that write through this file may raise another one."""

    @property
    def record(self) -> FileRecord:
        """Size and checksum of all that was written."""
        return _record(self._size, self._checksum)

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
        """Return how many bytes were written."""
        return self._size

    def flush(self) -> None:
        """Pass buffered bytes to the system."""
        self._file.flush()

    def fileno(self) -> int:
        """Return the descriptor, for fsync; buffered bytes are passed to the system first."""
        self._file.flush()
        return self._file.fileno()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextmanager
def open_checksummed(path: Path) -> Iterator[ChecksummedFile]:
    """Open a new file for writing; an existing one is truncated."""
    with path.open("wb") as file:
        yield ChecksummedFile(file)


def _record(size: int, checksum: int) -> FileRecord:
    return {"bytes": size, "crc32": f"{checksum:08x}"}


def _read_records(folder: Path) -> dict[str, FileRecord]:
    """Return the marker's record of each file."""
    try:
        files = json.loads((folder / MARKER_FILE).read_text(encoding="utf-8"))["files"]
        return {str(name): {**record, "bytes": int(record["bytes"])} for name, record in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(f"--load {folder}: damaged, {MARKER_FILE} does not list its files") from error


def _is_small(record: FileRecord) -> bool:
    return bool(record["bytes"] <= SMALL_FILE_BYTES)


def _refuse(folder: Path, damage: str) -> None:
    if damage:
        raise DamagedCheckpoint(f"--load {folder}: damaged, {damage}")
