"""One live run per SAVE folder. Standard library only, so that a refusal costs no import."""

from __future__ import annotations

import json
import os
import socket
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

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


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown process"
