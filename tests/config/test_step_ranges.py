"""--profile-steps as users write it."""

from __future__ import annotations

import pytest

from megatron_ettin.config.time_units import parse_steps
from megatron_ettin.errors import ConfigError


@pytest.mark.parametrize(("written", "steps"), [("10:12", [10, 11, 12]), ("7", [7]), ("3:3", [3]), ("", [])])
def test_ranges_hold_both_ends(written: str, steps: list[int]) -> None:
    assert list(parse_steps(written)) == steps


@pytest.mark.parametrize("written", ["0:3", "5:4", "a", "1:2:3", "-1", "2-4", " 1"])
def test_anything_else_is_refused_by_name(written: str) -> None:
    with pytest.raises(ConfigError, match=f"^--profile-steps {written}: must be FIRST:LAST"):
        parse_steps(written)
