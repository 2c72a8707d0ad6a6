"""What the command lines in tools/ share: parser, number types, progress line, exit codes, worker lifetime."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from functools import wraps
from multiprocessing import parent_process
from typing import NoReturn, TextIO

from megatron_ettin.errors import ConfigError, os_error_line


class ToolParser(argparse.ArgumentParser):
    """argparse without abbreviations; wrong input raises ConfigError, and an unknown flag gets a suggestion."""

    def __init__(self, description: str) -> None:
        """Create the parser; ``description`` is what ``--help`` shows."""
        super().__init__(
            description=description, allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse the arguments.

        Raises:
            ConfigError: a flag is unknown, missing or has a wrong value.
        """
        known = [name for action in self._actions for name in action.option_strings]
        for argument in arguments:
            flag = argument.split("=", 1)[0]
            if flag.startswith("--") and flag not in known:
                raise ConfigError(f"{flag}: unknown flag{suggestion(flag, known)}")
        return self.parse_args(arguments)

    def error(self, message: str) -> NoReturn:
        """Raise argparse's message as ConfigError."""
        raise ConfigError(message.removeprefix("argument "))


LARGEST_INTEGER = 2**63 - 1
"""What numpy, torch and file formats store in an integer."""


def positive(text: str) -> int:
    """Parse an integer above 0, for argparse."""
    number = parse_count(text)
    if not number:
        raise argparse.ArgumentTypeError(f"{text} is not a positive integer")
    return number


def count(text: str) -> int:
    """Parse an integer of at least 0, for argparse."""
    number = parse_count(text)
    if number is None:
        raise argparse.ArgumentTypeError(f"{text} is not a non-negative integer")
    return number


def parse_count(text: str) -> int | None:
    """Return an integer from 0 to :data:`LARGEST_INTEGER`, or None where the text is none."""
    if not text.isdecimal() or len(text) > len(str(LARGEST_INTEGER)) or int(text) > LARGEST_INTEGER:
        return None
    return int(text)


def png_path(text: str) -> str:
    """Parse the path of a PNG, for argparse; another suffix would select another format."""
    if not text.endswith(".png"):
        raise argparse.ArgumentTypeError(f"{text} does not end in .png")
    return text


class ProgressLine:
    """Progress of a long job: one line that is overwritten on a terminal, a line every 30 s in a log."""

    def __init__(self, stream: TextIO) -> None:
        """Write to ``stream``."""
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._seconds_between = 0.2 if self._is_terminal else 30.0
        self._shown_at = time.monotonic()
        self._width = 0

    def update(self, text: str) -> None:
        """Show ``text``, unless the previous update is too recent."""
        now = time.monotonic()
        if now - self._shown_at >= self._seconds_between:
            self._shown_at = now
            self._write(text, "\r" if self._is_terminal else "\n")

    def finish(self, text: str) -> None:
        """Show ``text`` and end the line."""
        self._write(text, "\n")

    def _write(self, text: str, end: str) -> None:
        self._stream.write(text.ljust(self._width) + end)  # padded, to overwrite a longer text
        self._stream.flush()
        self._width = len(text) if self._is_terminal else 0


def console_script(main: Callable[[Sequence[str]], int]) -> Callable[..., int]:
    """Make ``main`` a console script: without arguments it runs the command line as :func:`run_tool` does."""

    @wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        return run_tool(main) if arguments is None else main(arguments)

    return run


def run_tool(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run a tool on the command line and exit with the code it returns.

    Wrong input and system errors (no permission, no space left) print one line and exit with 2. SIGTERM ends the tool
    as an exception does, so that it removes half-written files.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        code = main(sys.argv[1:])
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        code = 2
    except OSError as error:
        sys.stderr.write(f"error: {os_error_line(error)}\n")
        code = 2
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    sys.exit(code)


def end_with_parent() -> None:
    """End this worker process as soon as its parent has died, even if the parent was killed."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" for the known name closest to ``name``, or "" if none is close."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
