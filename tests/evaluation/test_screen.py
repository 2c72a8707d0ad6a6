"""What a person sees while models are evaluated."""

from __future__ import annotations

import io

import pytest

from megatron_ettin.evaluation.console import Screen


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_over_tasks_and_one_over_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    with Screen(stream) as screen:
        screen.begin("nano bias/winogender", 2, 7)
        screen.show("sentences", 60, 240)
        screen.note("error: [bold]nano[/bold], count/bad: no head")
    shown = stream.getvalue()
    for words in ("tasks: nano bias/winogender", "1/7", "sentences", "60/240"):
        assert words in shown
    assert "error: [bold]nano[/bold], count/bad: no head\n" in shown.replace("\r\n", "\n"), "a message is no markup"


def test_a_log_gets_lines() -> None:
    stream = io.StringIO()
    with Screen(stream) as screen:
        screen.begin("nano bias/winogender", 2, 7)
        screen.show("sentences", 60, 240)  # too soon after the last line
        screen.note("error: no head")
    assert stream.getvalue().splitlines() == ["2/7 nano bias/winogender", "error: no head"]
