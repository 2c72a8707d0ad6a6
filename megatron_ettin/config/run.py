"""A whole run as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from megatron_ettin.config.backend import BackendConfig
from megatron_ettin.config.checkpoint import CheckpointConfig
from megatron_ettin.config.data import DataConfig
from megatron_ettin.config.model import ModelConfig
from megatron_ettin.config.parallel import ParallelConfig
from megatron_ettin.config.training import OptimizerConfig, TrainingConfig
from megatron_ettin.config.value_types import TextValue, plain_value
from megatron_ettin.errors import ConfigError


@dataclass(frozen=True)
class RunConfig:
    """Everything a run depends on, resolved. Saved beside every checkpoint as ``run.json``'s ``config``."""

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
        """Rebuild a config from :meth:`to_dict`'s result.

        Keys that are missing take their defaults, and a key counts wherever it stands: an earlier version may have had
        it in another section.
        """
        return cls().with_values({name: value for section in sections.values() for name, value in section.items()})

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
    """Return ``value``, parsed from text where the field holds a :class:`TextValue`."""
    if not isinstance(current, TextValue) or isinstance(value, TextValue):
        return value
    try:
        return type(current).parse(value)
    except ValueError as error:
        raise ConfigError(f"--{name.replace('_', '-')} {value}: {error}") from None
