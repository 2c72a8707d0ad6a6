"""What a user asked for: flags, YAML file and preset resolved into one run.

A value comes from the first of these that sets it: flag, YAML file, preset, default.
"""

from __future__ import annotations

import argparse
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, NoReturn

from megatron_ettin.cli import suggestion
from megatron_ettin.config.fields import Option, Value, field_value, run_options, run_sections, value_of
from megatron_ettin.config.objectives import OBJECTIVES, names_of
from megatron_ettin.config.presets import PRESETS, preset_values
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.time_units import IN_TOKENS, TWIN
from megatron_ettin.config.training import PHASES
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
"""Field -> what a preset no longer sets once a user has chosen the field: it makes sense beside the preset's choice."""


@dataclass(frozen=True)
class Command:
    """A command line, before any file but the YAML one is read."""

    config: RunConfig
    given: Mapping[str, str] = field(default_factory=dict)
    """Fields set by the user, each with where it was written: empty for a flag, else the preset or file."""
    dry_run: DryRun = ""
    preset: str = ""
    plan_flags: Mapping[str, str] = field(default_factory=dict)
    """What the user gave of PLAN_FLAGS, as written."""

    def spell_given(self, name: str) -> str:
        """Return a given field as flag and value, with where it was written unless that is the command line."""
        spelled = run_options()[name].spell(value_of(self.config, name))
        origin = self.given[name]
        return f"{spelled} (from {origin})" if origin else spelled

    def is_from_preset(self, name: str) -> bool:
        """Whether the preset, and nothing that the user wrote, sets a field."""
        return bool(self.preset) and self.given.get(name) == f"--preset {self.preset}"

    def going_on_from(self, objective: str, phase: str) -> Command:
        """Return the command with its preset read for what a checkpoint was, where the user named no other."""
        preset_origin = f"--preset {self.preset}"
        own = {name: origin for name, origin in self.given.items() if origin != preset_origin}
        values = {name: value_of(self.config, name) for name in own}
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
    # Only the RoPE bases of local layers depend on the objective; a run without one is refused later.
    named = {"objective": next(iter(OBJECTIVES)), "phase": "pretrain", **assumed, **values}
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


PLAN_FLAGS: Mapping[str, tuple[str, str]] = {
    "plan_gpus": ("N", "with --dry-run: plan for so many GPUs instead of the ranks of this launch"),
    "plan_gpus_per_node": ("N", "with --dry-run: GPUs that share a machine, within which tensor parallelism stays"),
    "plan_gpu_memory": ("GIB", "with --dry-run: memory of a GPU; refuses what does not fit and recommends what does"),
}
"""Flags of a plan alone, which no run keeps: name -> placeholder and help."""


def parse_flags(arguments: Sequence[str]) -> dict[str, object]:
    """Return what the command line sets, as written, by field name (and config, preset, dry_run, PLAN_FLAGS).

    Raises:
        ConfigError: an unknown flag, or one without its value.
        SystemExit: ``--help`` was asked for and printed.
    """
    parsed, unknown = build_parser().parse_known_args(arguments)
    if unknown:
        flag = unknown[0].split("=", 1)[0]
        if not flag.startswith("-"):
            raise ConfigError(f"{flag}: does not belong to a flag; a flag takes one value at most")
        raise ConfigError(f"{flag}: unknown flag{suggestion(flag, _known_flags())}")
    return vars(parsed)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser. Flags that are left out are absent from its result, and all values are still text."""
    parser = _FlagParser(
        prog="megatron_ettin.pretrain",
        usage=_USAGE,
        description=f"Pretrain an encoder (--objective {names_of('encoder')}) or a decoder "
        f"(--objective {names_of('decoder')}).",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    group = parser.add_argument_group("settings from elsewhere", "default < preset < YAML file < flag")
    group.add_argument("--config", metavar="F.yaml", help="file of settings: flag names, flat or in sections")
    group.add_argument("--preset", metavar="NAME", help=f"named settings: {', '.join(PRESETS)}")
    group.add_argument(
        "--dry-run",
        nargs="?",
        const="table",
        metavar="json",
        help="print layout, parameters, tokens, steps and memory, and train nothing; --dry-run=json prints one object",
    )
    for name, (metavar, told) in PLAN_FLAGS.items():
        group.add_argument(_spelled(name), metavar=metavar, help=told)
    for section, config in run_sections().items():
        group = parser.add_argument_group(section, (inspect.getdoc(config) or "").split("\n\n")[0])
        for option in run_options().values():
            if option.section == section:
                _add_flag(group, option)
    return parser


class _FlagParser(argparse.ArgumentParser):
    """argparse, except that wrong input is a ConfigError."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message.removeprefix("argument "))


class _HelpFormatter(argparse.HelpFormatter):
    """argparse's, except that a flag named in a text is not broken at its dashes."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)


def _known_flags() -> list[str]:
    options = run_options().values()
    switched_off = [option.spell(False) for option in options if option.type is bool]
    own = ["--config", "--preset", "--dry-run", "--help", *map(_spelled, PLAN_FLAGS)]
    return [*own, *(option.flag for option in options), *switched_off]


def _spelled(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add_flag(group: argparse._ArgumentGroup, option: Option) -> None:
    told = option.help.replace("%", "%%")
    if option.type is bool:
        group.add_argument(
            option.flag, dest=option.name, action=argparse.BooleanOptionalAction, help=f"{told} (default: off)"
        )
        return
    default = "" if str(option.default) == "" else f" (default: {option.default})"
    words = "{" + ",".join(option.choices) + "}" if option.choices else None
    group.add_argument(
        option.flag,
        dest=option.name,
        nargs="+" if option.takes_words else None,
        metavar=option.metavar or words or _PLACEHOLDERS.get(option.type),
        help=told + default,
    )


_PLACEHOLDERS = {int: "N", float: "X", str: "TEXT"}
_USAGE = f"""
  torchrun --nproc-per-node N -m %(prog)s [--config F.yaml] [--preset NAME] --objective {{{",".join(OBJECTIVES)}}}
      [--phase {{{",".join(PHASES)}}}] --data-path PREFIX --tokenizer-model DIR --save DIR [--load DIR]
      {{--train-iters N | --train-tokens N}} [flags]
  python -m %(prog)s ... --dry-run[=json]
  python -m %(prog)s --load DIR --eval-only --data-path PREFIX [flags]"""


@dataclass(frozen=True)
class Launch:
    """Number of this process and of all, before any process group."""

    rank: int
    world_size: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Launch:
        """Read RANK and WORLD_SIZE; without them the world is this process.

        Raises:
            ConfigError: they are not numbers, or do not fit together.
        """
        rank, world_size = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
        if not (rank.isdecimal() and world_size.isdecimal() and int(rank) < int(world_size)):
            raise ConfigError(
                f"RANK={rank} WORLD_SIZE={world_size}: must be whole numbers, the rank below the world size"
            )
        return cls(int(rank), int(world_size))
