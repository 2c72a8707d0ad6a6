"""Values that are parsed from text: --split, --profile-steps, --mlm-probability-schedule and --data-path."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from megatron_ettin.config.command_line import parse_command
from megatron_ettin.config.run import RunConfig, run_options
from megatron_ettin.config.value_types import Split, StepRange, TextValue
from megatron_ettin.errors import ConfigError
from tests.helpers.runs import tiny_run

WRITTEN = {
    "data_path": "0.6 'a b/books' 0.4 web",
    "split": "98, 2",
    "mlm_probability_schedule": "0:0.30,250B:0.15",
    "profile_steps": "10:12",
}
"""A spelling of each that is not the shortest."""


@given(st.lists(st.integers(0, 1000), min_size=3, max_size=3).filter(any))
def test_split_parts_are_read_as_written(parts: list[int]) -> None:
    assert Split.parse(",".join(map(str, parts))).parts == tuple(map(float, parts))


@pytest.mark.parametrize(
    "split", ["", "1,2,3,4", "a,b,c", "1,,2", "0,0,0", "1,-1,1", "nan,1,1", "inf,1,1", "1;2;3", "a,b", "-1,2"]
)
def test_split_refused(split: str) -> None:
    with pytest.raises(ConfigError, match=r"^--split .*: must be up to three parts such as 969,30,1"):
        parse_command([f"--split={split}"])


@pytest.mark.parametrize(("written", "steps"), [("10:12", [10, 11, 12]), ("7", [7]), ("3:3", [3]), ("", [])])
def test_step_ranges_include_both_ends(written: str, steps: list[int]) -> None:
    assert list(StepRange.parse(written).steps) == steps


@pytest.mark.parametrize("written", ["0:3", "5:4", "a", "1:2:3", "-1", "2-4", " 1"])
def test_step_range_refused(written: str) -> None:
    with pytest.raises(ConfigError, match=f"^--profile-steps {written}: must be FIRST:LAST"):
        parse_command([f"--profile-steps={written}"])


def test_every_such_field_is_covered() -> None:
    assert {name for name, option in run_options().items() if issubclass(option.type, TextValue)} == WRITTEN.keys()


@pytest.mark.parametrize("name", WRITTEN)
def test_json_and_yaml_keep_the_text(name: str) -> None:
    option, text = run_options()[name], WRITTEN[name]
    config = parse_command([option.flag, text]).config
    section = config.to_dict()[option.section]
    assert section[name] == text
    assert type(section[name]) is str
    for restored in (json.loads(json.dumps(config.to_dict())), yaml.safe_load(yaml.safe_dump(config.to_dict()))):
        assert RunConfig.from_dict(restored) == config
    assert config == RunConfig().with_values({name: text})


@pytest.mark.parametrize(("name", "value"), [("split", "a"), ("profile_steps", "2:1"), ("data_path", "0 a 1 b")])
def test_config_of_a_checkpoint_is_parsed_too(name: str, value: Any) -> None:
    sections: dict[str, dict[str, Any]] = {run_options()[name].section: {name: value}}
    with pytest.raises(ConfigError, match=f"^{run_options()[name].flag} {value}: "):
        RunConfig.from_dict(sections)


def test_mask_ratio_follows_the_schedule() -> None:
    data = tiny_run("mlm", mlm_probability_schedule="0:0.3,250B:0.15,1T:0.2").data
    shares = [data.mask_ratio(tokens) for tokens in (0, 250 * 10**9 - 1, 250 * 10**9, 10**12 - 1, 10**13)]
    assert shares == [0.3, 0.3, 0.15, 0.15, 0.2]
    assert data.largest_mask_ratio == 0.3
    assert tiny_run("mlm", mlm_probability=0.4).data.mask_ratio(10**13) == 0.4
    assert tiny_run("mlm", mlm_probability_schedule="0.2").data.mask_ratio(10**13) == 0.2
