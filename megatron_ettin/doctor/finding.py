"""One finding on a machine, and what fixes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """The state of one component of a machine."""

    name: str
    fine: bool
    """Whether a run can use it."""
    detail: str
    """What was found; what is missing if it is not fine."""
    fix: str = ""
    """The command, or the step, that fixes it."""

    def __post_init__(self) -> None:
        """Check that a missing component has a reason and a fix."""
        assert self.fine or (self.detail and self.fix), self.name


def yes(name: str, detail: str) -> Finding:
    """Return the finding of a usable component."""
    return Finding(name, True, detail)


def no(name: str, reason: str, fix: str) -> Finding:
    """Return the finding of a component that cannot be used."""
    return Finding(name, False, reason, fix)
