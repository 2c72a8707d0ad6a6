"""One live run per SAVE folder. Stdlib only, so that a refusal costs no import."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path
from types import TracebackType

from megatron_ettin.checkpoint.folder.layout import LOCK_FILE
from megatron_ettin.errors import ConfigError


class SaveLock:
    """Holds ``SAVE/lock`` from construction until :meth:`release` or the end of the process.

    The kernel drops an flock when its process dies, however it dies, so a lock left behind never blocks. The file's
    text (host and process id) only serves the message.
    """

    def __init__(self, save: Path) -> None:
        """Take the lock, creating the folder where there is none.

        Raises:
            ConfigError: the folder cannot be written, or another live run holds the lock.
        """
        self._path = save / LOCK_FILE
        self._descriptor = _open(save, self._path)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(self._descriptor)
            os.close(self._descriptor)
            raise ConfigError(
                f"--save {save}: another run writes there ({holder}); wait for it or save elsewhere"
            ) from None
        except OSError as error:
            os.close(self._descriptor)
            raise ConfigError(f"--save {save}: the folder cannot be locked: {error.strerror}") from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)

    def release(self) -> None:
        """Let the folder go. The file stays: removing it would let two waiting runs lock two different files."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> SaveLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def _open(save: Path, path: Path) -> int:
    try:
        save.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"--save {save}: the folder cannot be written: {error.strerror}") from error


def _holder(descriptor: int) -> str:
    try:
        told = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {told['pid']} on {told['host']}"
    except (ValueError, KeyError, TypeError):
        return "its process is not known"
