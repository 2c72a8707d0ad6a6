"""Fields of the config dataclasses as options: their declaration, flag, help, bounds and conversion from text."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from types import MappingProxyType
from typing import Any

from megatron_ettin.cli import LARGEST_INTEGER
from megatron_ettin.config.value_types import (
    TEXT_RULE,
    TOKEN_RULE,
    TextValue,
    check_text,
    format_token_count,
    parse_token_count,
    plain_value,
)
from megatron_ettin.errors import ConfigError

Value = int | float | bool | str | TextValue
"""The value of a field."""


@dataclass(frozen=True)
class Bounds:
    """Bounds of a number; None is no bound."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def broken_rule(self, value: float) -> str | None:
        """Return the rule that ``value`` breaks, or None."""
        if self.at_least is not None and value < self.at_least:
            return f"must be at least {self.at_least}"
        if self.above is not None and value <= self.above:
            return f"must be above {self.above}"
        if self.at_most is not None and value > self.at_most:
            return f"must be at most {self.at_most}"
        if self.below is not None and value >= self.below:
            return f"must be below {self.below}"
        return None


def option(
    default: Any,
    help: str,  # argparse's own word for it
    *,
    choices: tuple[str, ...] | None = None,
    metavar: str | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    counts_tokens: bool = False,
) -> Any:
    """Declare a config field together with its flag.

    Args:
        default: the value without a preset, a YAML key or a flag.
        help: one line for ``--help``, with the unit where there is one.
        choices: the allowed words; an empty default then means "not given".
        metavar: the placeholder in ``--help``.
        at_least: the smallest allowed number.
        above: allowed numbers are larger than this.
        at_most: the largest allowed number; that of 64 bits for integers.
        below: allowed numbers are smaller than this.
        counts_tokens: the number may be written with a suffix, as 8.5B.
    """
    if at_most is None and below is None and type(default) is int:
        at_most = LARGEST_INTEGER
    metadata = {"help": help, "choices": choices, "metavar": metavar, "counts_tokens": counts_tokens}
    return field(default=default, metadata={**metadata, "bounds": Bounds(at_least, above, at_most, below)})


def unsupported(default: Any, what: str, advice: str) -> Any:
    """Declare a flag of Megatron's that this trainer does not support: any value but the default is refused.

    Args:
        default: the only allowed value.
        what: the feature, which starts the message.
        advice: ends the message.
    """
    metadata = {"help": f"not supported: {what}", "choices": None, "metavar": None, "counts_tokens": False}
    rule = f"{what} is not supported; {advice}"
    return field(default=default, metadata={**metadata, "bounds": Bounds(), "only_default": rule})


@dataclass(frozen=True)
class Option:
    """One field of one section of the config."""

    name: str
    """The field's name; unique over all sections."""
    section: str
    """The field of RunConfig that contains it."""
    type: type
    default: Value
    help: str
    choices: tuple[str, ...] | None
    metavar: str | None
    bounds: Bounds
    counts_tokens: bool
    """Whether it may be written with a suffix, as 8.5B."""
    only_default: str = ""
    """The rule that any other value breaks."""

    @property
    def flag(self) -> str:
        """The flag, with its dashes."""
        return "--" + self.name.replace("_", "-")

    @property
    def takes_words(self) -> bool:
        """Whether the flag takes several words."""
        return issubclass(self.type, TextValue) and self.type.takes_words

    def spell(self, value: object) -> str:
        """Return the flag with a value, as a user types it."""
        if self.type is bool and isinstance(value, bool):
            return self.flag if value else self.flag.replace("--", "--no-", 1)
        if self.counts_tokens and isinstance(value, int):
            return f"{self.flag} {format_token_count(value)}"
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            value = " ".join(value)
        return f"{self.flag} {value}" if str(value) else f"{self.flag} ''"

    def broken_rule(self, value: Value) -> str | None:
        """Return the rule that a value of the field's type breaks, or None."""
        if self.only_default and value != self.default:
            return self.only_default
        if self.choices is not None and value not in self.choices and value != self.default:
            return f"must be one of {', '.join(self.choices)}"
        return self.bounds.broken_rule(value) if isinstance(value, int | float) else None

    def read(self, written: object, origin: str = "") -> Value:
        """Return the value of the field's type, inside its bounds.

        Args:
            written: text from the command line, or the value of a YAML or JSON key.
            origin: where it was written, for the message; empty for the command line.

        Raises:
            ConfigError: it has another type, is none of the choices, or is outside the bounds.
        """
        try:
            value = self._convert(written)
            rule = self.broken_rule(value)
        except ValueError as error:
            rule = str(error)
        if rule is not None:
            raise ConfigError(f"{self.spell(written)}{f' ({origin})' if origin else ''}: {rule}")
        return value

    def _convert(self, written: object) -> Value:
        """Return the value of the field's type; raise ValueError with the type's rule where there is none."""
        if issubclass(self.type, TextValue):
            return self.type.parse(plain_value(written))
        convert, rule = (parse_token_count, TOKEN_RULE) if self.counts_tokens else _CONVERSIONS[self.type]
        value = convert(written)
        if value is None:
            raise ValueError(rule)
        return value


def section_options(section: str, config: type) -> Iterator[Option]:
    """Yield the options of the dataclass of one section, in order."""
    types = typing.get_type_hints(config)
    for declared in fields(config):
        yield _declared_option(section, types[declared.name], declared)


def _declared_option(section: str, kind: type, declared: Field[Any]) -> Option:
    default: Any = declared.default
    return Option(name=declared.name, section=section, type=kind, default=default, **declared.metadata)


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
