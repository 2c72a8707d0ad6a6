"""The flags of a run, made from the config dataclasses in Megatron's flat style."""

from __future__ import annotations

import argparse
import inspect
import textwrap
from collections.abc import Sequence
from typing import NoReturn

from megatron_ettin.config.cluster import PLAN_FLAGS
from megatron_ettin.config.errors import ConfigError
from megatron_ettin.config.fields import Option, run_options, run_sections
from megatron_ettin.config.names import suggestion
from megatron_ettin.config.presets import PRESETS


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
        description="Pretrain an encoder (--objective mlm or mntp) or a decoder (--objective clm).",
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
    default = "" if option.default == "" else f" (default: {option.default})"
    words = "{" + ",".join(option.choices) + "}" if option.choices else None
    group.add_argument(
        option.flag,
        dest=option.name,
        nargs="+" if option.many else None,
        metavar=option.metavar or words or _PLACEHOLDERS[option.type],
        help=told + default,
    )


_PLACEHOLDERS = {int: "N", float: "X", str: "TEXT"}
_USAGE = """
  torchrun --nproc-per-node N -m %(prog)s [--config F.yaml] [--preset NAME] --objective {mlm,clm,mntp}
      [--phase {pretrain,extend,decay,cross}] --data-path PREFIX --tokenizer-model DIR --save DIR [--load DIR]
      {--train-iters N | --train-tokens N} [flags]
  python -m %(prog)s ... --dry-run[=json]
  python -m %(prog)s --load DIR --eval-only --data-path PREFIX [flags]"""
