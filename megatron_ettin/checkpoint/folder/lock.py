"""One live run per SAVE folder, and no deletion of a checkpoint that is being read. Standard library only."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType

from megatron_ettin.checkpoint.folder.integrity import MARKER_FILE
from megatron_ettin.checkpoint.folder.layout import LOCK_FILE
from megatron_ettin.errors import ConfigError
from megatron_ettin.files import locked


class SaveLock:
    """The lock of a SAVE folder, held from construction until :meth:`release` or the end of the process.

    The text of ``SAVE/lock`` (host and process id) only serves the message of a refused run.
    """

    def __init__(self, save: Path) -> None:
        """Acquire the lock; creates the folder if needed.

        Raises:
            ConfigError: the folder is not writable, or another live run holds the lock.
        """
        path = save / LOCK_FILE
        self._lock = ExitStack()
        try:
            save.mkdir(parents=True, exist_ok=True)
            file = self._lock.enter_context(locked(path, wait=False))
            file.truncate(0)
            file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
            file.flush()
        except BlockingIOError:
            raise ConfigError(
                f"--save {save}: another run writes there ({_holder(path)}); wait for it or save elsewhere"
            ) from None
        except OSError as error:
            raise ConfigError(f"--save {save}: the folder cannot be written to or locked: {error.strerror}") from error

    def release(self) -> None:
        """Release the lock. The file stays: without it two waiting runs could lock two different files."""
        self._lock.close()

    def __enter__(self) -> SaveLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep a complete checkpoint from being deleted by the run that writes there while the block reads it.

    The hold ends with the process, however it ends. On a file system without locks there is none.
    """
    with (folder / MARKER_FILE).open("rb") as marker:
        with suppress(OSError):
            fcntl.flock(marker, fcntl.LOCK_SH)
        yield


def is_held(folder: Path) -> bool:
    """Return whether a process reads a complete checkpoint."""
    with (folder / MARKER_FILE).open("rb") as marker:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown process"
