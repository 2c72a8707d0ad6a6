"""Errors are reported on one line."""

from __future__ import annotations

from megatron_ettin.errors import ConfigError, first_line, one_line


def test_message_is_one_line_even_with_line_breaks_in_a_value() -> None:
    assert str(ConfigError("--save a\nb\r\nc: must be a folder")) == "--save a b c: must be a folder"
    assert issubclass(ConfigError, ValueError)


def test_library_errors_fit_on_one_line() -> None:
    error = RuntimeError("cannot read\n  file.bin")
    assert (one_line(error), first_line(error)) == ("cannot read file.bin", "cannot read")
    assert one_line(RuntimeError()) == first_line(RuntimeError()) == "RuntimeError"
