"""Every package that ``.[clients]`` and ``.[eval]`` install has a pin, and every pin is used."""

from __future__ import annotations

import re
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"


def pins(suffix: str) -> dict[str, str]:
    """Return the pinned versions by name, from the lines with this suffix."""
    pinned = re.findall(rf"^([\w.-]+)==(\S+){suffix}$", CONSTRAINTS.read_text(), re.MULTILINE)
    return {str(canonicalize_name(name)): version for name, version in pinned}


def needs(name: str, extras: set[str]) -> list[Requirement]:
    requirements = [Requirement(line) for line in requires(name) or ()]
    return [
        need
        for need in requirements
        if need.marker is None or any(need.marker.evaluate({"extra": e}) for e in {"", *extras})
    ]


def closure(extra: str) -> dict[str, list[Requirement]]:
    """Return everything that an extra of this package installs, with the requirements on it.

    The dependencies of torch's CUDA build, which pins them itself, are left out.
    """
    installed: dict[str, list[Requirement]] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(line) for line in requires("megatron_ettin") or () if f'extra == "{extra}"' in line]
    while waiting:
        need = waiting.pop()
        name = str(canonicalize_name(need.name))
        if name.startswith(("nvidia-", "cuda-")) or name == "triton":
            continue
        installed.setdefault(name, []).append(need)
        if (name, frozenset(need.extras)) not in seen:
            seen.add((name, frozenset(need.extras)))
            waiting += needs(name, need.extras)
    return installed


@pytest.mark.parametrize(("extra", "shared"), [("clients", []), ("eval", ["clients"])])
def test_extras_are_pinned_and_every_pin_fits(extra: str, shared: list[str]) -> None:
    pytest.importorskip("sentence_transformers")
    needed, marked, all_pins = closure(extra), pins(f"  # {extra}"), pins("") | pins(f"  # {extra}")
    for other in shared:
        all_pins |= pins(f"  # {other}")
    assert needed, "megatron_ettin is installed without its extras: make install-clients"
    assert sorted(needed.keys() - all_pins.keys()) == []
    assert sorted(marked.keys() - needed.keys()) == []
    misfits = [
        str(need) for name, each in needed.items() for need in each if not need.specifier.contains(all_pins[name])
    ]
    assert misfits == []
