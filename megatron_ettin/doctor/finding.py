"""One thing that was looked at, and what would mend it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What a machine has of one thing."""

    name: str
    fine: bool
    """Whether a run can use it."""
    told: str
    """What was found; what is missing where it is not fine."""
    mend: str = ""
    """The command, or the step, that mends it."""

    def __post_init__(self) -> None:
        """A no without a way out is a mistake of ours."""
        assert self.fine or (self.told and self.mend), self.name


def yes(name: str, told: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding(name, True, told)


def no(name: str, reason: str, mend: str) -> Finding:
    """Return a finding that keeps something from running."""
    return Finding(name, False, reason, mend)
