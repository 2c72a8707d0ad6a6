"""A run as one value, and its fields by name."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from types import MappingProxyType
from typing import Any, NoReturn

from megatron_ettin.config.backend import BackendConfig
from megatron_ettin.config.checkpoint import CheckpointConfig
from megatron_ettin.config.data import DataConfig
from megatron_ettin.config.model import ModelConfig
from megatron_ettin.config.options import Option, section_options
from megatron_ettin.config.parallel import ParallelConfig
from megatron_ettin.config.training import OptimizerConfig, TrainingConfig
from megatron_ettin.config.value_types import TextValue, plain_value
from megatron_ettin.errors import ConfigError

IMPLIED_VALUES: Mapping[str, Any] = MappingProxyType({"data_version": 1})
"""What a ``run.json`` that lacks a setting implies, where that is not the setting's default."""


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run, resolved; saved with every checkpoint as ``config`` in run.json."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    backend: BackendConfig = field(default_factory=BackendConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return plain nested dicts, ready for JSON or YAML."""
        return {
            section: {name: plain_value(value) for name, value in vars(config).items()}
            for section, config in vars(self).items()
        }

    @classmethod
    def from_dict(cls, sections: dict[str, dict[str, Any]]) -> RunConfig:
        """Rebuild a config from the result of :meth:`to_dict`.

        Missing keys take the values of :data:`IMPLIED_VALUES` or their defaults, and a key may be in any section, as
        earlier versions may have had it in another one.
        """
        values = {name: value for section in sections.values() for name, value in section.items()}
        return cls().with_values({**IMPLIED_VALUES, **values})

    def with_values(self, values: Mapping[str, Any]) -> RunConfig:
        """Return a copy with some fields replaced, each named without its section: names are unique over all.

        Text is parsed where the field is a :class:`TextValue`.

        Raises:
            ConfigError: text breaks a rule; names flag, value and rule.
        """
        left = dict(values)
        sections = {}
        for section, config in vars(self).items():
            own = {name: _typed(name, left.pop(name), value) for name, value in vars(config).items() if name in left}
            sections[section] = replace(config, **own)
        if left:
            raise TypeError(f"no section has {', '.join(left)}")
        return RunConfig(**sections)


def _typed(name: str, value: Any, current: Any) -> Any:
    """Return ``value``, parsed from text where the field is a :class:`TextValue`."""
    return run_options()[name].read(value) if isinstance(current, TextValue) else value


@cache
def run_sections() -> Mapping[str, type]:
    """Return the dataclass of every section by the section's name."""
    types = typing.get_type_hints(RunConfig)
    return {declared.name: types[declared.name] for declared in fields(RunConfig)}


@cache
def run_options() -> Mapping[str, Option]:
    """Return every option by its name, in the order of the sections."""
    options: dict[str, Option] = {}
    for section, config in run_sections().items():
        for declared in section_options(section, config):
            assert declared.name not in options, f"two sections declare {declared.name}"
            options[declared.name] = declared
    return options


def value_of(config: RunConfig, name: str) -> Any:
    """Return the value of the field ``name``, whichever section contains it."""
    return getattr(getattr(config, run_options()[name].section), name)


def spell(config: RunConfig, name: str) -> str:
    """Return the flag of the field ``name`` with its value, for messages."""
    return run_options()[name].spell(value_of(config, name))


def refuse(config: RunConfig, name: str, rule: str) -> NoReturn:
    """Raise ConfigError naming the flag of the field ``name``, its value and the rule."""
    raise ConfigError(f"{spell(config, name)}: {rule}")
