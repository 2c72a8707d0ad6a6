"""Errors that end a run with one line, and the text of a library's error on one line."""

from __future__ import annotations


class ConfigError(ValueError):
    """A flag, key, file or size that cannot work.

    The message is one line naming the flag, the value and the rule. Entry points print it after ``error:`` and exit 2.
    """

    def __str__(self) -> str:
        """Return the message on one line, even if a value in it has line breaks."""
        return " ".join(super().__str__().splitlines())


class RunFailure(RuntimeError):
    """Training cannot continue; every rank raises it at the same step.

    The message is one line naming the step and the rule. Entry points print it after ``error:`` and exit 1.
    """


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, or its type if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def os_error_line(error: OSError) -> str:
    """Return ``FILE: reason`` on one line, without the file if the error has none."""
    where = f"{error.filename}: " if error.filename else ""
    return where + " ".join((error.strerror or str(error)).split())
