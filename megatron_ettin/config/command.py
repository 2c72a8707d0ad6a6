"""What a user asked for: flags, YAML file and preset resolved into one run.

A value comes from the first of these that sets it: flag, YAML file, preset, default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from megatron_ettin.config.cluster import PLAN_FLAGS, Cluster, parse_cluster
from megatron_ettin.config.errors import ConfigError
from megatron_ettin.config.fields import Value, run_options, value_of
from megatron_ettin.config.flags import parse_flags
from megatron_ettin.config.names import suggestion
from megatron_ettin.config.presets import PRESETS, preset_values
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.time_units import IN_TOKENS, TWIN
from megatron_ettin.config.values import field_value
from megatron_ettin.config.yaml_file import PRESET_KEY, read_yaml

DryRun = Literal["", "table", "json"]

_YIELDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "train_iters": ("lr_warmup_tokens", "lr_wsd_decay_tokens"),
        "lr_decay_style": ("lr_wsd_decay_tokens",),
        "optimizer": ("max_lr", "clip_grad"),
        "packing": ("real_tokens_per_row",),
        "seq_length": ("real_tokens_per_row", "chunk_min_size", "chunk_skip_size"),
        "chunk_size": ("real_tokens_per_row", "chunk_min_size", "chunk_skip_size"),
    }
)
"""Field -> what a preset no longer sets once a user has chosen the field: it makes sense beside the preset's choice."""


@dataclass(frozen=True)
class Command:
    """A command line, before any file but the YAML one is read."""

    run: RunConfig
    given: Mapping[str, str] = field(default_factory=dict)
    """Fields set by the user, each with where it was written: empty for a flag, else the preset or file."""
    dry_run: DryRun = ""
    preset: str = ""
    plan_flags: Mapping[str, str] = field(default_factory=dict)
    """What the user gave of PLAN_FLAGS, as written."""

    def cluster(self, world_size: int) -> Cluster | None:
        """Return what a dry run was asked to plan for, or None for this launch of ``world_size`` ranks.

        Raises:
            ConfigError: the GPUs are not as they must be.
        """
        return parse_cluster(self.plan_flags, world_size)

    def spell_given(self, name: str) -> str:
        """Return a given field as flag and value, with where it was written unless that is the command line."""
        spelled = run_options()[name].spell(value_of(self.run, name))
        origin = self.given[name]
        return f"{spelled} (from {origin})" if origin else spelled

    def going_on_from(self, objective: str, phase: str) -> Command:
        """Return the command with its preset read for what a checkpoint was, where the user named no other."""
        preset_origin = f"--preset {self.preset}"
        own = {name: origin for name, origin in self.given.items() if origin != preset_origin}
        values = {name: value_of(self.run, name) for name in own}
        return _resolve(self.preset, values, own, self.dry_run, {"objective": objective, "phase": phase})


def parse_command(arguments: Sequence[str]) -> Command:
    """Resolve the command line (without the program's name).

    Raises:
        ConfigError: an unknown flag, key or preset, a value of the wrong type or outside its bounds, or a length given
            both in steps and in tokens.
        SystemExit: ``--help`` was asked for and printed.
    """
    flags = parse_flags(arguments)
    config, preset, dry_run = (flags.pop(name, None) for name in ("config", PRESET_KEY, "dry_run"))
    plan_flags = {name: str(flags.pop(name)) for name in PLAN_FLAGS if name in flags}
    if plan_flags and dry_run is None:
        name, value = next(iter(plan_flags.items()))
        raise ConfigError(f"--{name.replace('_', '-')} {value}: belongs to --dry-run")
    written = read_yaml(str(config)) if config is not None else {}
    preset_in_file = written.pop(PRESET_KEY, None)
    preset = preset if preset is not None else preset_in_file
    values: dict[str, Value] = {}
    given: dict[str, str] = {}
    for origin, settings in ((f"--config {config}", written), ("", flags)):
        layer = {name: field_value(run_options()[name], raw, origin) for name, raw in settings.items()}
        _refuse_twins(layer, origin)
        for twin in (TWIN[name] for name in layer if name in TWIN):
            values.pop(twin, None)
            given.pop(twin, None)
        values |= layer
        given |= dict.fromkeys(layer, origin)
    command = _resolve(_known_preset(preset), values, given, _dry_run_form(dry_run), {})
    return replace(command, plan_flags=plan_flags)


def _resolve(
    preset: str, values: Mapping[str, Value], given: Mapping[str, str], dry_run: DryRun, assumed: Mapping[str, str]
) -> Command:
    """Lay what the user wrote over the preset, which depends on objective and phase, and that over the defaults."""
    # Of objectives only the bases of local layers depend; without one the run is refused later.
    named = {"objective": "mlm", "phase": "pretrain", **assumed, **values}
    of_preset = preset_values(preset, str(named["objective"]), str(named["phase"])) if preset else {}
    for name in values:
        for yielding in (TWIN.get(name, ""), *_YIELDS.get(name, ())):
            of_preset.pop(yielding, None)
    settings = {**of_preset, **values}
    # A default in steps gives way to a length in tokens.
    settings |= {TWIN[name]: 0 for name in settings if name in TWIN and TWIN[name] not in settings}
    origins = {**dict.fromkeys(of_preset, f"--preset {preset}"), **given}
    return Command(RunConfig().with_values(settings), origins, dry_run, preset)


def _refuse_twins(layer: Mapping[str, Value], origin: str) -> None:
    """Refuse a length that one place gives in both units; 0, which leaves it to the other, is none."""
    where = f" ({origin})" if origin else ""
    for in_steps, in_tokens in IN_TOKENS.items():
        if layer.get(in_steps) and layer.get(in_tokens):
            one, other = (run_options()[name].spell(layer[name]) for name in (in_steps, in_tokens))
            raise ConfigError(f"{one}{where}: and {other} say the same thing; give one of them")


def _known_preset(name: object) -> str:
    if name is None:
        return ""
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(f"--preset {name}: must be one of {', '.join(PRESETS)}{suggestion(str(name), PRESETS)}")
    return name


def _dry_run_form(written: object) -> DryRun:
    match written:
        case None:
            return ""
        case "table" | "json":
            return written
    raise ConfigError(f"--dry-run {written}: must be --dry-run or --dry-run=json")
