"""The flags of a run: their parser, ``--help``, and the table of docs/flags.md."""

from __future__ import annotations

import argparse
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NoReturn

from megatron_ettin.cli import suggestion
from megatron_ettin.config.objectives import OBJECTIVES, names_of
from megatron_ettin.config.options import Option
from megatron_ettin.config.presets import PRESETS
from megatron_ettin.config.run import run_options, run_sections
from megatron_ettin.config.training import PHASES
from megatron_ettin.errors import ConfigError

COMMAND_FLAGS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "config": ("F.yaml", "file of settings: flag names, flat or in sections"),
        "preset": ("NAME", f"named settings: {', '.join(PRESETS)}"),
        "dry_run": ("json", "print layout, parameters, tokens, steps and memory and exit; --dry-run=json as JSON"),
    }
)
"""Flags about the command itself: name -> placeholder and help."""

PLAN_FLAGS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "plan_gpus": ("N", "with --dry-run: plan for this many GPUs instead of the ranks of this launch"),
        "plan_gpus_per_node": ("N", "with --dry-run: GPUs in one machine, within which tensor parallelism stays"),
        "plan_gpu_memory": ("GIB", "with --dry-run: memory of a GPU; refuses layouts that exceed it, recommends one"),
    }
)
"""Flags of ``--dry-run``, which no config contains: name -> placeholder and help."""

REGENERATE = "python -m megatron_ettin.config.flags > docs/flags.md"
"""Writes docs/flags.md."""

_PLACEHOLDERS = {int: "N", float: "X", str: "TEXT"}
_USAGE = f"""
  torchrun --nproc-per-node N -m %(prog)s [--config F.yaml] [--preset NAME] --objective {{{",".join(OBJECTIVES)}}}
      [--phase {{{",".join(PHASES)}}}] --data-path PREFIX --tokenizer-model DIR --save DIR [--load DIR]
      {{--train-iters N | --train-tokens N}} [flags]
  python -m %(prog)s ... --dry-run[=json]
  python -m %(prog)s --load DIR --eval-only --data-path PREFIX [flags]"""


def parse_flags(arguments: Sequence[str]) -> dict[str, object]:
    """Return the given flags as text, by field name (and those of COMMAND_FLAGS and PLAN_FLAGS).

    Raises:
        ConfigError: an unknown flag, or one without its value.
        SystemExit: ``--help`` was given and printed.
    """
    parsed, unknown = build_parser().parse_known_args(arguments)
    if unknown:
        flag = unknown[0].split("=", 1)[0]
        if not flag.startswith("-"):
            raise ConfigError(f"{flag}: does not belong to a flag; a flag takes one value at most")
        raise ConfigError(f"{flag}: unknown flag{suggestion(flag, _known_flags())}")
    return vars(parsed)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser. Its result has the given flags only, all values still text."""
    parser = _FlagParser(
        prog="megatron_ettin.pretrain",
        usage=_USAGE,
        description=f"Pretrain an encoder (--objective {names_of('encoder')}) or a decoder "
        f"(--objective {names_of('decoder')}).",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    group = parser.add_argument_group("other sources of settings", "default < preset < YAML file < flag")
    for name, (metavar, text) in {**COMMAND_FLAGS, **PLAN_FLAGS}.items():
        form = {"nargs": "?", "const": "table"} if name == "dry_run" else {}
        group.add_argument(flag_of(name), metavar=metavar, help=text, **form)  # type: ignore[arg-type]
    for section in run_sections():
        group = parser.add_argument_group(section, _section_summary(section))
        for option in _options_of(section):
            _add_flag(group, option)
    return parser


def flag_of(name: str) -> str:
    """Return the flag of a name."""
    return "--" + name.replace("_", "-")


class _FlagParser(argparse.ArgumentParser):
    """argparse, except that wrong input is a ConfigError."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message.removeprefix("argument "))


class _HelpFormatter(argparse.HelpFormatter):
    """argparse's, except that lines do not break at the dashes of a flag."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)


def _known_flags() -> list[str]:
    options = run_options().values()
    switched_off = [option.spell(False) for option in options if option.type is bool]
    own = ["--help", *map(flag_of, (*COMMAND_FLAGS, *PLAN_FLAGS))]
    return [*own, *(option.flag for option in options), *switched_off]


def _options_of(section: str) -> list[Option]:
    return [option for option in run_options().values() if option.section == section]


def _section_summary(section: str) -> str:
    return (inspect.getdoc(run_sections()[section]) or "").split("\n\n")[0]


def _add_flag(group: argparse._ArgumentGroup, option: Option) -> None:
    text = option.help.replace("%", "%%") + (f" (default: {_default(option)})" if _default(option) else "")
    if option.type is bool:
        group.add_argument(option.flag, dest=option.name, action=argparse.BooleanOptionalAction, help=text)
        return
    nargs = "+" if option.takes_words else None
    group.add_argument(option.flag, dest=option.name, nargs=nargs, metavar=_placeholder(option), help=text)


def _default(option: Option) -> str:
    if option.type is bool:
        return "on" if option.default else "off"
    return str(option.default)


def _placeholder(option: Option) -> str:
    words = "{" + ",".join(option.choices) + "}" if option.choices else ""
    return option.metavar or words or _PLACEHOLDERS[option.type]


def flags_page() -> str:
    """Return docs/flags.md: every flag with its default and meaning, a table for each section."""
    lines = [
        "# Flags of `megatron_ettin.pretrain`",
        "",
        "A value comes from the first of these that sets it: flag, YAML file (`--config`), preset (`--preset`),",
        "default. YAML keys are the flag names without leading dashes, flat or in the sections below. A switch is",
        "`true` or `false` in YAML; on the command line `--no-...` turns it off. Token counts may have a suffix:",
        "`400M`, `8.5B`.",
        "",
        f"Generated by `{REGENERATE}`.",
        "",
        "## The command",
        "",
        "| flag | meaning |",
        "|---|---|",
        *(f"| `{flag_of(name)} {value}` | {_cell(text)} |" for name, (value, text) in COMMAND_FLAGS.items()),
        *(f"| `{flag_of(name)} {value}` | {_cell(text)} |" for name, (value, text) in PLAN_FLAGS.items()),
    ]
    for section in run_sections():
        lines += ["", f"## {section}", "", _section_summary(section), "", *_section_table(section)]
    return "\n".join(lines) + "\n"


def _section_table(section: str) -> Iterator[str]:
    yield "| flag | default | meaning |"
    yield "|---|---|---|"
    for option in _options_of(section):
        flag = option.flag if option.type is bool else f"{option.flag} {_placeholder(option)}"
        default = f"`{_default(option)}`" if _default(option) else ""
        yield f"| `{_cell(flag)}` | {default} | {_cell(option.help)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    import sys

    sys.stdout.write(flags_page())
