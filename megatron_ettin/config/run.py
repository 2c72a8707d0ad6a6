"""A whole run as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, get_type_hints

from megatron_ettin.config.data import DataConfig
from megatron_ettin.config.model import ModelConfig
from megatron_ettin.config.parallel import ParallelConfig
from megatron_ettin.config.training import CheckpointConfig, OptimizerConfig, TrainingConfig


@dataclass(frozen=True)
class RunConfig:
    """Everything a run depends on, resolved. Saved beside every checkpoint as ``run.json``'s ``config``."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return plain nested dicts, ready for JSON or YAML."""
        return asdict(self)

    @classmethod
    def from_dict(cls, sections: dict[str, dict[str, Any]]) -> RunConfig:
        """Rebuild a config from :meth:`to_dict`'s result; keys that are missing take their defaults."""
        kinds = get_type_hints(cls)
        return cls(**{name: kind(**sections.get(name, {})) for name, kind in kinds.items()})

    def with_values(self, values: Mapping[str, Any]) -> RunConfig:
        """Return a copy with some fields replaced, each named without its section: names are unique over all."""
        left = dict(values)
        sections = {}
        for section in fields(self):
            config = getattr(self, section.name)
            own = {declared.name: left.pop(declared.name) for declared in fields(config) if declared.name in left}
            sections[section.name] = replace(config, **own)
        assert not left, f"no section has {', '.join(left)}"
        return RunConfig(**sections)
