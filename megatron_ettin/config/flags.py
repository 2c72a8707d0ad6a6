"""The command line of a run: flags made from the config dataclasses, in Megatron's flat style.

A value comes from the first of these that sets it: flag, YAML file, preset, default.
"""

from __future__ import annotations

import argparse
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn, cast

from megatron_ettin.config.errors import ConfigError
from megatron_ettin.config.fields import Option, Value, run_options, run_sections
from megatron_ettin.config.names import suggestion
from megatron_ettin.config.presets import PRESETS
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.values import field_value
from megatron_ettin.config.yaml_file import PRESET_KEY, read_yaml

DryRun = Literal["", "table", "json"]


@dataclass(frozen=True)
class Command:
    """What the user asked for, before any file but the YAML one is read."""

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
        ConfigError: an unknown flag or key, or a value of the wrong type or outside its bounds.
        SystemExit: ``--help`` was asked for and printed.
    """
    flags = _parse_flags(arguments)
    config, preset, dry_run = (cast(str | None, flags.pop(name, None)) for name in ("config", PRESET_KEY, "dry_run"))
    if dry_run not in (None, "table", "json"):
        raise ConfigError(f"--dry-run {dry_run}: must be --dry-run or --dry-run=json")
    written = read_yaml(config) if config is not None else {}
    yaml_preset = written.pop(PRESET_KEY, None)
    from_preset = preset_values(preset if preset is not None else yaml_preset)

    values: dict[str, Value] = {}
    given: dict[str, str] = {}
    layers: tuple[tuple[str, Mapping[str, object]], ...] = (
        (f"--preset {preset or yaml_preset}", from_preset),
        (f"--config {config}", written),
        ("", flags),
    )
    for origin, settings in layers:
        values |= {name: field_value(run_options()[name], raw, origin) for name, raw in settings.items()}
        given |= dict.fromkeys(settings, origin)
    return Command(RunConfig().with_values(values), given, cast(DryRun, dry_run or ""))


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


def build_parser() -> argparse.ArgumentParser:
    """Return the parser. Flags that are left out are absent from its result, and all values are still text."""
    parser = _FlagParser(
        prog="megatron_ettin.pretrain",
        usage=_USAGE,
        description="Pretrain an encoder (--objective mlm) or a decoder (--objective clm).",
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


def _parse_flags(arguments: Sequence[str]) -> dict[str, object]:
    parsed, unknown = build_parser().parse_known_args(arguments)
    if unknown:
        flag = unknown[0].split("=", 1)[0]
        if not flag.startswith("-"):
            raise ConfigError(f"{flag}: does not belong to a flag; a flag takes one value at most")
        raise ConfigError(f"{flag}: unknown flag{suggestion(flag, _known_flags())}")
    return vars(parsed)


def _known_flags() -> list[str]:
    options = run_options().values()
    switched_off = [option.spell(False) for option in options if option.type is bool]
    return ["--config", "--preset", "--dry-run", "--help", *(option.flag for option in options), *switched_off]


def _add_flag(group: argparse._ArgumentGroup, option: Option) -> None:
    told = option.help.replace("%", "%%")
    if option.type is bool:
        group.add_argument(
            option.flag, dest=option.name, action=argparse.BooleanOptionalAction, help=f"{told} (default: off)"
        )
        return
    default = "" if option.default == "" else f" (default: {option.default})"
    words = "{" + ",".join(option.choices) + "}" if option.choices else None
    group.add_argument(
        option.flag,
        dest=option.name,
        metavar=option.metavar or words or _PLACEHOLDERS[option.type],
        help=told + default,
    )


_PLACEHOLDERS = {int: "N", float: "X", str: "TEXT"}
_USAGE = """
  torchrun --nproc-per-node N -m %(prog)s [--config F.yaml] [--preset NAME] --objective {mlm,clm}
      --data-path PREFIX --tokenizer-model DIR --save DIR [--load DIR] --train-iters N [flags]
  python -m %(prog)s ... --dry-run[=json]
  python -m %(prog)s --load DIR --eval-only --data-path PREFIX [flags]"""
