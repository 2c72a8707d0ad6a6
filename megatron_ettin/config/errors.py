"""The one exception for what a user gave."""

from __future__ import annotations


class ConfigError(ValueError):
    """A flag, key, file or size that cannot work.

    The message is one line naming the flag, the value and the rule. Entry points print it after ``error:`` and exit 2.
    """

    def __str__(self) -> str:
        """Return the message on one line, whatever a value in it holds."""
        return " ".join(super().__str__().splitlines())
