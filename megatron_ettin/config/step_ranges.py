"""Ranges of steps as a user writes them: 10:12 is steps 10, 11 and 12."""

from __future__ import annotations

import re

from megatron_ettin.config.errors import ConfigError

_RANGE = re.compile(r"(\d+)(?::(\d+))?")


def parse_steps(written: str) -> range:
    """Return the steps (1-based) of ``--profile-steps``; none where nothing is written.

    >>> list(parse_steps("10:12")), list(parse_steps("7")), list(parse_steps(""))
    ([10, 11, 12], [7], [])

    Raises:
        ConfigError: it is neither FIRST:LAST nor one step, or the steps do not ascend from 1.
    """
    if not written:
        return range(1, 1)
    match = _RANGE.fullmatch(written)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last:
        raise ConfigError(f"--profile-steps {written}: must be FIRST:LAST or one step, counted from 1, such as 10:12")
    return range(first, last + 1)
