"""Output folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_ettin.config.errors import ConfigError


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
