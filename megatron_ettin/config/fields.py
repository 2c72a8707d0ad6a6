"""All fields of a run, seen as options: what flags, YAML keys, checks and messages are made from."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, fields
from functools import cache
from types import MappingProxyType
from typing import Any, NoReturn

from megatron_ettin.config.options import Bounds
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.token_counts import TOKEN_RULE, format_token_count, parse_token_count
from megatron_ettin.config.value_types import TEXT_RULE, TextValue, check_text, plain_value
from megatron_ettin.errors import ConfigError

Value = int | float | bool | str | TextValue
"""What a field may hold."""


@dataclass(frozen=True)
class Option:
    """One field of one section of the run."""

    name: str
    """The field's name; unique over all sections."""
    section: str
    """The field of RunConfig that holds it."""
    type: type
    default: Value
    help: str
    choices: tuple[str, ...] | None
    metavar: str | None
    flag: str
    """With its dashes."""
    bounds: Bounds
    counts_tokens: bool
    """Whether it may be written with a suffix, as 8.5B."""

    @property
    def takes_words(self) -> bool:
        """Whether the flag takes several words."""
        return issubclass(self.type, TextValue) and self.type.takes_words

    def spell(self, value: object) -> str:
        """Return the flag with a value, as a user types it."""
        if self.type is bool:
            return self.flag if value else self.flag.replace("--", "--no-", 1)
        if self.counts_tokens and isinstance(value, int):
            return f"{self.flag} {format_token_count(value)}"
        return f"{self.flag} {value}" if str(value) else f"{self.flag} ''"

    def broken_rule(self, value: Value) -> str | None:
        """Return the rule that a value of the right type breaks, in words, or None when it breaks none."""
        if self.choices is not None and value not in self.choices and value != self.default:
            return f"must be one of {', '.join(self.choices)}"
        return None if isinstance(value, str | bool | TextValue) else self.bounds.broken_rule(value)


@cache
def run_options() -> Mapping[str, Option]:
    """Return every option of a run by its name, in the order of the sections."""
    found: dict[str, Option] = {}
    for section, config in run_sections().items():
        for made in _section_options(section, config):
            assert made.name not in found, f"two sections declare {made.name}"
            found[made.name] = made
    return found


@cache
def run_sections() -> Mapping[str, type]:
    """Return the dataclass of every section of a run by the section's name."""
    types = typing.get_type_hints(RunConfig)
    return {declared.name: types[declared.name] for declared in fields(RunConfig)}


def value_of(config: RunConfig, name: str) -> Any:
    """Return the value of the field ``name`` in ``run``, whichever section holds it."""
    return getattr(getattr(config, run_options()[name].section), name)


def spell(config: RunConfig, name: str) -> str:
    """Return the flag of the field ``name`` with its value in ``run``, for messages."""
    return run_options()[name].spell(value_of(config, name))


def refuse(config: RunConfig, name: str, rule: str) -> NoReturn:
    """Raise ConfigError naming the flag of the field ``name``, its value in ``run``, and the rule."""
    raise ConfigError(f"{spell(config, name)}: {rule}")


def _section_options(section: str, config: type) -> Iterator[Option]:
    types = typing.get_type_hints(config)
    for declared in fields(config):
        yield _option(section, types[declared.name], declared)


def _option(section: str, kind: type, declared: Field[Any]) -> Option:
    told = declared.metadata
    default: Any = declared.default
    return Option(
        name=declared.name,
        section=section,
        type=kind,
        default=default,
        help=told["help"],
        choices=told["choices"],
        metavar=told["metavar"],
        flag="--" + (told["flag"] or declared.name.replace("_", "-")),
        bounds=told["bounds"],
        counts_tokens=told["counts_tokens"],
    )


def field_value(option: Option, written: object, origin: str = "") -> Value:
    """Return the value of a field, of its type and inside its bounds.

    Args:
        option: the field.
        written: text from the command line, or what YAML or JSON has for a key.
        origin: where it was written, for the message; empty for the command line.

    Raises:
        ConfigError: it has another type, is none of the choices, or is outside the bounds.
    """
    try:
        value = _convert(option, written)
        rule = option.broken_rule(value)
    except ValueError as error:
        rule = str(error)
    if rule is not None:
        where = f" ({origin})" if origin else ""
        raise ConfigError(f"{option.flag} {_spelled(written)}{where}: {rule}")
    return value


def _convert(option: Option, written: object) -> Value:
    """Return the value of the field's type; raises ValueError with the type's rule."""
    if issubclass(option.type, TextValue):
        return option.type.parse(plain_value(written))
    convert, rule = (parse_token_count, TOKEN_RULE) if option.counts_tokens else _CONVERSIONS[option.type]
    value = convert(written)
    if value is None:
        raise ValueError(rule)
    return value


def _spelled(written: object) -> str:
    if isinstance(written, list) and all(isinstance(word, str) for word in written):
        return " ".join(written)
    return str(written) if written != "" else repr(written)


def _whole_number(written: object) -> int | None:
    if isinstance(written, bool) or not isinstance(written, int | str):
        return None
    try:
        return int(written)
    except ValueError:
        return None


def _number(written: object) -> float | None:
    # YAML 1.1 reads 1e-3, without a dot, as text.
    if isinstance(written, bool) or not isinstance(written, int | float | str):
        return None
    try:
        value = float(written)
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def _switch(written: object) -> bool | None:
    return written if isinstance(written, bool) else None


_CONVERSIONS: Mapping[type, tuple[Callable[[object], Value | None], str]] = MappingProxyType(
    {
        int: (_whole_number, "must be a whole number"),
        float: (_number, "must be a finite number"),
        bool: (_switch, "must be true or false"),
        str: (check_text, TEXT_RULE),
    }
)
"""Type of a field -> its conversion, which returns None (or raises ValueError) for another type, and the rule."""
