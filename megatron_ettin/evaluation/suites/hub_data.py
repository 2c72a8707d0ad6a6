"""Data sets of the Hub, asked for in one way by all suites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from megatron_ettin.config.errors import ConfigError, one_line


def ask_hub(question: Callable[[], Any], refusal: Callable[[str], str]) -> Any:
    """Ask the Hub, or the local cache of an earlier time, by the library ``datasets``.

    Args:
        question: what to ask.
        refusal: makes the message of the reason why there is no answer.

    Raises:
        ConfigError: whatever went wrong, in one line.
        ModuleNotFoundError: ``datasets`` is not installed.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        return question()
    except Exception as error:  # the library raises what its transport raises: connection, timeout, offline, missing
        raise ConfigError(refusal(one_line(error))) from error
