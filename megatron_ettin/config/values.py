"""From what a user wrote to the value of a field."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from megatron_ettin.config.errors import ConfigError
from megatron_ettin.config.fields import Option, Value
from megatron_ettin.config.sources import DATA_PATH_RULE, join_sources
from megatron_ettin.config.token_counts import TOKEN_RULE, parse_token_count


def field_value(option: Option, written: object, origin: str = "") -> Value:
    """Return the value of a field, of its type and inside its bounds.

    Args:
        option: the field.
        written: text from the command line, or whatever YAML made of a key.
        origin: where it was written, for the message; empty for the command line.

    Raises:
        ConfigError: it has another type, is none of the choices, or is outside the bounds.
    """
    value: Value | None
    if option.counts_tokens:
        value, type_rule = parse_token_count(written), TOKEN_RULE
    elif option.many:
        value, type_rule = join_sources(written), DATA_PATH_RULE
    else:
        value, type_rule = _CONVERSIONS[option.type](written), _TYPE_RULES[option.type]
    rule = type_rule if value is None else option.broken_rule(value)
    if rule is not None:
        where = f" ({origin})" if origin else ""
        raise ConfigError(f"{option.flag} {written if written != '' else repr(written)}{where}: {rule}")
    assert value is not None
    return value


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


def _text(written: object) -> str | None:
    # No path may hold a null character.
    return written if isinstance(written, str) and "\0" not in written else None


_CONVERSIONS: Mapping[type, Callable[[object], Value | None]] = MappingProxyType(
    {int: _whole_number, float: _number, bool: _switch, str: _text}
)
_TYPE_RULES: Mapping[type, str] = MappingProxyType(
    {
        int: "must be a whole number",
        float: "must be a finite number",
        bool: "must be true or false",
        str: "must be text (in quotes where YAML would read something else)",
    }
)
