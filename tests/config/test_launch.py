"""Rank and world size from the environment."""

from __future__ import annotations

import pytest

from megatron_ettin.config.command_line import Launch
from megatron_ettin.errors import ConfigError


def test_without_torchrun_the_world_is_this_process() -> None:
    assert Launch.from_environment({}) == Launch(0, 1)


def test_under_torchrun() -> None:
    assert Launch.from_environment({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}) == Launch(3, 4)


@pytest.mark.parametrize(("rank", "world_size"), [("x", "2"), ("0", "two"), ("2", "2"), ("-1", "2"), ("0", "0")])
def test_refused(rank: str, world_size: str) -> None:
    with pytest.raises(ConfigError, match=f"RANK={rank} WORLD_SIZE={world_size}: "):
        Launch.from_environment({"RANK": rank, "WORLD_SIZE": world_size})
