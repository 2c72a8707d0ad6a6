"""Durable and atomic writes, locks, checksums, hard links and sizes. Standard library only."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from megatron_ettin.errors import ConfigError

_FSYNC_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


def flush_to_disk(path: Path) -> None:
    """Fsync a file's content or a folder's entries; does nothing where the file system does not support it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _FSYNC_UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path, *, suffix: str = "") -> Iterator[Path]:
    """Yield a temporary path next to ``path`` and rename it to ``path`` at the end of the block.

    If the block raises, the temporary file is deleted and ``path`` stays as it was. Parent folders are created.

    Args:
        path: the file to write.
        suffix: of the temporary name; by default the process id, so that processes never share one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{suffix or os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json_atomic(path: Path, value: Any) -> None:
    """Write JSON so that a reader finds the old file or the new one, also after a power failure."""
    with atomic_file(path, suffix="partial") as partial:  # the next write replaces what a killed process left
        partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        flush_to_disk(partial)
    flush_to_disk(path.parent)


def write_json_lines(files: Mapping[Path, Iterable[Mapping[str, Any]]]) -> None:
    """Write the rows of each file, one JSON object per line; no file appears before all are complete."""
    with ExitStack() as stack:
        partials = {path: stack.enter_context(atomic_file(path)) for path in files}
        for path, rows in files.items():
            with partials[path].open("w", encoding="utf-8") as file:
                file.writelines(f"{json.dumps(row)}\n" for row in rows)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[TextIO]:
    """Hold an exclusive lock on the file at ``path``, which is created if needed, and yield the open file.

    The kernel releases the lock when the block ends or the process dies, so a stale lock file never blocks.

    Args:
        path: the lock file; its text is free to use.
        wait: wait for another process that holds the lock.

    Raises:
        BlockingIOError: another process holds the lock and ``wait`` is off.
        OSError: the file cannot be opened, or its file system has no locks.
    """
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield file


@contextmanager
def new_folder(path: Path, *, overwrite: bool, known_by: str) -> Iterator[Path]:
    """Yield a temporary folder next to ``path`` and rename it to ``path`` at the end of the block.

    If the block raises, the temporary folder is deleted and ``path`` stays as it was.

    Args:
        path: the user's ``--save``. It may be an empty folder.
        overwrite: replace an existing folder.
        known_by: a file that every folder of this kind contains; only folders with it are ever replaced.

    Raises:
        ConfigError: something else is at ``path``, or the write fails (disk full, read-only).
    """
    _refuse_occupied(path, overwrite=overwrite, known_by=known_by)
    # In the same folder, so that a rename suffices; named by process, so that two processes never share one.
    partial, previous = (path.parent / f".{path.name}.{os.getpid()}.{word}" for word in ("partial", "previous"))
    try:
        partial.mkdir(parents=True)
        yield partial
        if path.exists():
            path.rename(previous)
        partial.rename(path)
    except OSError as error:
        raise ConfigError(f"--save {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if previous.exists() and not path.exists():
            previous.rename(path)
        shutil.rmtree(previous, ignore_errors=True)


def _refuse_occupied(path: Path, *, overwrite: bool, known_by: str) -> None:
    if not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise ConfigError(f"--save {path}: already exists; --overwrite replaces it")
    if path.is_symlink() or not (path / known_by).is_file():
        raise ConfigError(f"--save {path}: is not a folder with a {known_by}; --overwrite replaces only such folders")


def link_tree(source: Path, target: Path, *, leave_out: frozenset[str] = frozenset()) -> None:
    """Hard-link every file under ``source`` into ``target``; copy where the file system has no hard links.

    Args:
        source: a folder.
        target: an existing folder.
        leave_out: names at the top of ``source`` to skip.
    """
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if relative.parts[0] in leave_out or not path.is_file():
            continue
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target / relative)
        except OSError:  # another file system, or one without links
            shutil.copyfile(path, target / relative)


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def format_bytes(num_bytes: int) -> str:
    """Return a size in GiB, below one in MiB.

    >>> format_bytes(3 * 2**29)
    '1.50 GiB'
    """
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"
