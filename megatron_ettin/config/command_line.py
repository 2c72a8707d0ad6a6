"""The command line: flags, YAML file and preset resolved into the config of a run.

A value comes from the first of these that sets it: flag, YAML file, preset, default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from megatron_ettin.cli import parse_count, suggestion
from megatron_ettin.config.flags import PLAN_FLAGS, flag_of, parse_flags
from megatron_ettin.config.objectives import OBJECTIVES
from megatron_ettin.config.options import Value
from megatron_ettin.config.presets import PRESETS, preset_values
from megatron_ettin.config.run import RunConfig, run_options, value_of
from megatron_ettin.config.time_units import IN_TOKENS, TWIN, twin_rule
from megatron_ettin.config.yaml_file import PRESET_KEY, read_yaml
from megatron_ettin.errors import ConfigError

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
"""Field -> fields that the preset does not set once the user sets the field to another value: they fit only its own."""


@dataclass(frozen=True)
class Command:
    """A parsed command line; of all files only the YAML one has been read."""

    config: RunConfig
    given: Mapping[str, str] = field(default_factory=dict)
    """Fields that are not defaults, each with its origin: empty for a flag, otherwise the preset or file."""
    dry_run: DryRun = ""
    preset: str = ""
    plan_flags: Mapping[str, str] = field(default_factory=dict)
    """The given flags of PLAN_FLAGS, as text."""
    notes: tuple[str, ...] = ()
    """How the user's settings changed what else the preset sets, one line each."""

    def spell_given(self, name: str) -> str:
        """Return a given field as flag and value, with its origin unless that is the command line."""
        spelled = run_options()[name].spell(value_of(self.config, name))
        origin = self.given[name]
        return f"{spelled} (from {origin})" if origin else spelled

    def is_from_preset(self, name: str) -> bool:
        """Whether a field has the preset's value, not the user's."""
        return bool(self.preset) and self.given.get(name) == f"--preset {self.preset}"

    def with_preset_for(self, objective: str, phase: str) -> Command:
        """Return the command with its preset resolved for a checkpoint's objective and phase, unless given."""
        preset_origin = f"--preset {self.preset}"
        own = {name: origin for name, origin in self.given.items() if origin != preset_origin}
        values = {name: value_of(self.config, name) for name in own}
        return _resolve(self.preset, values, own, self.dry_run, {"objective": objective, "phase": phase})


def parse_command(arguments: Sequence[str]) -> Command:
    """Resolve the command line (without the program's name).

    Raises:
        ConfigError: an unknown flag, key or preset, a value of the wrong type or outside its bounds, or a duration
            given both in steps and in tokens.
        SystemExit: ``--help`` was given and printed.
    """
    flags = parse_flags(arguments)
    config, preset, dry_run = (flags.pop(name, None) for name in ("config", PRESET_KEY, "dry_run"))
    plan_flags = {name: str(flags.pop(name)) for name in PLAN_FLAGS if name in flags}
    if plan_flags and dry_run is None:
        name, value = next(iter(plan_flags.items()))
        raise ConfigError(f"{flag_of(name)} {value}: needs --dry-run")
    written = read_yaml(str(config)) if config is not None else {}
    preset_in_file = written.pop(PRESET_KEY, None)
    preset = preset if preset is not None else preset_in_file
    values: dict[str, Value] = {}
    given: dict[str, str] = {}
    for origin, settings in ((f"--config {config}", written), ("", flags)):
        layer = {name: run_options()[name].read(raw, origin) for name, raw in settings.items()}
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
    """Apply the user's values over the preset's, which depend on objective and phase, over the defaults."""
    # Only the RoPE bases of local layers depend on the objective; a run without one is refused later.
    named = {"objective": next(iter(OBJECTIVES)), "phase": "pretrain", **assumed, **values}
    of_preset = preset_values(preset, str(named["objective"]), str(named["phase"])) if preset else {}
    notes = [*_convert_weight_decay(of_preset, values), *_drop_settings(of_preset, values)]
    settings = {**of_preset, **values}
    # A duration in tokens replaces a default in steps.
    settings |= {TWIN[name]: 0 for name in settings if name in TWIN and TWIN[name] not in settings}
    origins = {**dict.fromkeys(of_preset, f"--preset {preset}"), **given}
    return Command(RunConfig().with_values(settings), origins, dry_run, preset, notes=tuple(notes))


def _drop_settings(of_preset: dict[str, Value], values: Mapping[str, Value]) -> Iterator[str]:
    """Remove settings of the preset that the user's values make meaningless; yield a line for each such value."""
    options, of_whole_preset = run_options(), dict(of_preset)
    for name, value in values.items():
        if value == of_whole_preset.get(name, options[name].default):
            continue
        dropped = [other for other in (TWIN.get(name, ""), *_YIELDS.get(name, ())) if other in of_preset]
        dropped = [other for other in dropped if other not in values]
        if changed := [other for other in dropped if of_preset[other] != options[other].default]:
            flags = " ".join(options[other].spell(of_preset[other]) for other in changed)
            yield f"with {options[name].spell(value)} the preset's {flags} do not apply"
        for other in dropped:
            del of_preset[other]


def _convert_weight_decay(of_preset: dict[str, Value], values: Mapping[str, Value]) -> Iterator[str]:
    """Give another optimizer than the preset's the weight decay of the same strength, and yield a line about it.

    stable_adamw decays a weight by lr / max_lr * weight_decay in a step, adamw and muon by lr * weight_decay.
    """
    optimizer = values.get("optimizer", of_preset.get("optimizer"))
    if of_preset.get("optimizer") != "stable_adamw" or optimizer == "stable_adamw" or "weight_decay" in values:
        return
    largest, previous = of_preset.get("max_lr", 0) or of_preset["lr"], of_preset["weight_decay"]
    assert isinstance(largest, int | float)
    assert isinstance(previous, int | float)
    option = run_options()["weight_decay"]
    of_preset["weight_decay"] = previous / largest
    yield (
        f"with --optimizer {optimizer} the preset's {option.spell(previous)}, which is relative to a learning rate of "
        f"{largest:g}, becomes {option.spell(of_preset['weight_decay'])}"
    )


def _refuse_twins(layer: Mapping[str, Value], origin: str) -> None:
    """Refuse a duration that one source gives in both units; 0 gives none."""
    where = f" ({origin})" if origin else ""
    for in_steps, in_tokens in IN_TOKENS.items():
        if layer.get(in_steps) and layer.get(in_tokens):
            one, other = (run_options()[name].spell(layer[name]) for name in (in_steps, in_tokens))
            raise ConfigError(f"{one}{where}: and {other} {twin_rule(in_steps)}")


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


@dataclass(frozen=True)
class Launch:
    """Rank of this process and world size, known before any process group."""

    rank: int
    world_size: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Launch:
        """Read RANK and WORLD_SIZE; without them the world size is 1.

        Raises:
            ConfigError: they are not numbers, or the rank is not below the world size.
        """
        written = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
        rank, world_size = map(parse_count, written)
        if rank is None or world_size is None or rank >= world_size:
            raise ConfigError(
                f"RANK={written[0]} WORLD_SIZE={written[1]}: must be whole numbers, the rank below the world size"
            )
        return cls(rank, world_size)
