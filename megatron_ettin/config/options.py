"""How a field of a config dataclass declares the command-line flag made from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Bounds:
    """The numbers a field may hold; None is no limit."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def broken_rule(self, value: float) -> str | None:
        """Return the rule that ``value`` breaks, in words, or None when it breaks none."""
        if self.at_least is not None and value < self.at_least:
            return f"must be at least {self.at_least}"
        if self.above is not None and value <= self.above:
            return f"must be above {self.above}"
        if self.at_most is not None and value > self.at_most:
            return f"must be at most {self.at_most}"
        if self.below is not None and value >= self.below:
            return f"must be below {self.below}"
        return None


def option(
    default: Any,
    help: str,  # argparse's own word for it
    *,
    choices: tuple[str, ...] | None = None,
    metavar: str | None = None,
    flag: str | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    counts_tokens: bool = False,
) -> Any:
    """Declare a config field together with the flag made from it.

    Args:
        default: the value without a preset, a YAML key or a flag.
        help: one line for ``--help``; says the unit where there is one.
        choices: the allowed words, where the field is one of a few; an empty default then means "not given".
        metavar: the placeholder shown in ``--help``.
        flag: the flag's name without dashes, where it is not the field's name.
        at_least: the smallest allowed number.
        above: allowed numbers are larger than this.
        at_most: the largest allowed number.
        below: allowed numbers are smaller than this.
        counts_tokens: the number may be written with a suffix, as 8.5B.
    """
    told = {"help": help, "choices": choices, "metavar": metavar, "flag": flag, "counts_tokens": counts_tokens}
    bounds = Bounds(at_least, above, at_most, below)
    return field(default=default, metadata={**told, "bounds": bounds})
