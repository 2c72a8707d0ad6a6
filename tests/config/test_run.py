"""RunConfig: JSON round trip, defaults of missing keys, replacement of fields."""

from __future__ import annotations

import json

import pytest

from megatron_ettin.config.run import RunConfig


def test_round_trip_through_json() -> None:
    config = RunConfig().with_values({"hidden_size": 64, "lr": 1e-4, "load": "runs/a"})
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_missing_keys_take_what_runs_did_before_them() -> None:
    expected = RunConfig().with_values({"hidden_size": 64, "data_version": 1})
    assert RunConfig.from_dict({"model": {"hidden_size": 64}}) == expected


def test_with_values_finds_the_section_of_a_field() -> None:
    config = RunConfig().with_values({"hidden_size": 64, "seed": 1})
    assert (config.model.hidden_size, config.training.seed) == (64, 1)
    assert config.data == RunConfig().data


def test_with_values_refuses_unknown_names() -> None:
    with pytest.raises(TypeError, match="no section has hiden_size"):
        RunConfig().with_values({"hiden_size": 64})
