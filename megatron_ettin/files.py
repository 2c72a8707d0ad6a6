"""Atomic writes, checksums, links and locks of files and folders. Standard library only."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from megatron_ettin.errors import ConfigError

_CANNOT = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


def flush_to_disk(path: Path) -> None:
    """Make a file's content, or a folder's names, outlive a power cut, where the file system can do that."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Hand out a path beside ``path`` to write to, and move it there when the block ends; drop it when it raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json_lines(files: Mapping[Path, Iterable[Mapping[str, Any]]]) -> None:
    """Write each file's rows, a line each; the files appear when all are whole."""
    with ExitStack() as stack:
        partials = {path: stack.enter_context(whole_file(path)) for path in files}
        for path, rows in files.items():
            with partials[path].open("w", encoding="utf-8") as file:
                file.writelines(f"{json.dumps(row)}\n" for row in rows)


@contextmanager
def new_folder(path: Path, *, overwrite: bool, known_by: str) -> Iterator[Path]:
    """Hand out a temporary folder beside ``path`` and move it there when the block ends; drop it when it raises.

    Args:
        path: the ``--save`` that a user gave. It may be an empty folder.
        overwrite: replace a folder that is there.
        known_by: a file that every folder of this kind holds; only folders with it are ever replaced.

    Raises:
        ConfigError: something else is there, or the disk refuses (full, read-only).
    """
    _refuse_taken(path, overwrite=overwrite, known_by=known_by)
    # Beside the target, so that the last move is a rename; named by process, so that two never share one.
    partial, former = (path.parent / f".{path.name}.{os.getpid()}.{word}" for word in ("partial", "former"))
    try:
        partial.mkdir(parents=True)
        yield partial
        if path.exists():
            path.rename(former)
        partial.rename(path)
    except OSError as error:
        raise ConfigError(f"--save {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if former.exists() and not path.exists():
            former.rename(path)
        shutil.rmtree(former, ignore_errors=True)


def _refuse_taken(path: Path, *, overwrite: bool, known_by: str) -> None:
    if not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise ConfigError(f"--save {path}: exists already; --overwrite replaces it")
    if path.is_symlink() or not (path / known_by).is_file():
        raise ConfigError(f"--save {path}: is no folder with a {known_by}; --overwrite replaces only what it wrote")


def link_tree(source: Path, target: Path, *, leave_out: frozenset[str] = frozenset()) -> None:
    """Give every file under ``source`` a second name under ``target``; copies where the disk has no hard links.

    Args:
        source: a folder.
        target: a folder that is there.
        leave_out: names at the top of ``source`` that are not wanted.
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
