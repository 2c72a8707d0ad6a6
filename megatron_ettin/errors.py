"""Exceptions that end a run with one line: what a user gave, and what training came to."""

from __future__ import annotations


class ConfigError(ValueError):
    """A flag, key, file or size that cannot work.

    The message is one line naming the flag, the value and the rule. Entry points print it after ``error:`` and exit 2.
    """

    def __str__(self) -> str:
        """Return the message on one line, whatever a value in it holds."""
        return " ".join(super().__str__().splitlines())


class RunFailure(RuntimeError):
    """Training came to a point from which it must not go on; all ranks find so at the same step.

    The message is one line naming the step and the rule. Entry points print it after ``error:`` and exit 1.
    """


def one_line(error: BaseException) -> str:
    """Return what a library says of an error on one line, or the error's type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
