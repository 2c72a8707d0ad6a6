"""What a user asked for: flags, YAML file and preset resolved into one run.

A value comes from the first of these that sets it: flag, YAML file, preset, default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from megatron_ettin.config.errors import ConfigError
from megatron_ettin.config.fields import Value, run_options
from megatron_ettin.config.flags import parse_flags
from megatron_ettin.config.names import suggestion
from megatron_ettin.config.presets import PRESETS
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.values import field_value
from megatron_ettin.config.yaml_file import PRESET_KEY, read_yaml

DryRun = Literal["", "table", "json"]


@dataclass(frozen=True)
class Command:
    """A command line, before any file but the YAML one is read."""

    run: RunConfig
    given: Mapping[str, str] = field(default_factory=dict)
    """Fields set by the user, each with where it was written: empty for a flag, else the preset or file."""
    dry_run: DryRun = ""

    def spell_given(self, name: str) -> str:
        """Return a given field as flag and value, with where it was written unless that is the command line."""
        option = run_options()[name]
        spelled = option.spell(getattr(getattr(self.run, option.section), name))
        origin = self.given[name]
        return f"{spelled} (from {origin})" if origin else spelled


def parse_command(arguments: Sequence[str]) -> Command:
    """Resolve the command line (without the program's name).

    Raises:
        ConfigError: an unknown flag, key or preset, or a value of the wrong type or outside its bounds.
        SystemExit: ``--help`` was asked for and printed.
    """
    flags = parse_flags(arguments)
    config, preset, dry_run = (flags.pop(name, None) for name in ("config", PRESET_KEY, "dry_run"))
    written = read_yaml(str(config)) if config is not None else {}
    preset_in_file = written.pop(PRESET_KEY, None)
    preset = preset if preset is not None else preset_in_file
    layers: list[tuple[str, Mapping[str, object]]] = [
        (f"--preset {preset}", preset_values(preset)),
        (f"--config {config}", written),
        ("", flags),
    ]
    values: dict[str, Value] = {}
    given: dict[str, str] = {}
    for origin, settings in layers:
        for name, raw in settings.items():
            values[name] = field_value(run_options()[name], raw, origin)
            given[name] = origin
    return Command(RunConfig().with_values(values), given, _dry_run_form(dry_run))


def preset_values(name: object) -> Mapping[str, Value]:
    """Return what a preset sets; None is no preset.

    Raises:
        ConfigError: there is no preset of that name.
    """
    if name is None:
        return {}
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(f"--preset {name}: must be one of {', '.join(PRESETS)}{suggestion(str(name), PRESETS)}")
    return PRESETS[name]


def _dry_run_form(written: object) -> DryRun:
    match written:
        case None:
            return ""
        case "table" | "json":
            return written
    raise ConfigError(f"--dry-run {written}: must be --dry-run or --dry-run=json")
