"""What a user got wrong is told in one line."""

from __future__ import annotations

from megatron_ettin.errors import ConfigError


def test_message_is_one_line_whatever_a_value_holds() -> None:
    assert str(ConfigError("--save a\nb\r\nc: must be a folder")) == "--save a b c: must be a folder"
    assert issubclass(ConfigError, ValueError)
