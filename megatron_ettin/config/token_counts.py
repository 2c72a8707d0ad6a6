"""Numbers of tokens as people write them: 8.5B."""

from __future__ import annotations

import re
from decimal import Decimal

_SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_WRITTEN = re.compile(r"(\d+(?:\.\d*)?(?:e\+?\d{1,2})?)([KMBT]?)", re.ASCII | re.IGNORECASE)

TOKEN_RULE = "must be a whole number of tokens, in figures or with a suffix: 400M, 8.5B, 1.7T"


def parse_token_count(written: object) -> int | None:
    """Return a number of tokens, or None where ``written`` is none; suffixes are powers of a thousand.

    >>> parse_token_count("8.5B"), parse_token_count(4096), parse_token_count("1.5")
    (8500000000, 4096, None)
    """
    if isinstance(written, bool) or not isinstance(written, int | float | str):
        return None
    # The shortest text of a float is what a YAML file said: 8.5e+9.
    found = _WRITTEN.fullmatch(str(written))
    if found is None:
        return None
    count = Decimal(found[1]) * _SUFFIXES[found[2].upper()]
    return int(count) if count == count.to_integral_value() else None


def format_token_count(count: int) -> str:
    """Return a number of tokens as the shortest text that is read back as the same number.

    >>> format_token_count(8_500_000_000), format_token_count(16_666_666_667)
    ('8.5B', '16666666667')
    """
    spelled = [str(count)]
    for suffix, size in _SUFFIXES.items():
        if count >= size > 1:
            spelled.append(f"{(Decimal(count) / size).normalize():f}{suffix}")
    return min(spelled, key=len)
