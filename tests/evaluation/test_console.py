"""Console output during an evaluation."""

from __future__ import annotations

import io

import pytest

from megatron_ettin.evaluation.console import ProgressConsole


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_terminal_shows_progress_of_tasks_and_of_the_current_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    with ProgressConsole(stream) as console:
        console.start_task("nano bias/winogender", 2, 7)
        console.update("sentences", 60, 240)
        console.print("error: [bold]nano[/bold], count/bad: no head")
    output = stream.getvalue()
    for words in ("tasks: nano bias/winogender", "1/7", "sentences", "60/240"):
        assert words in output
    assert "error: [bold]nano[/bold], count/bad: no head\n" in output.replace("\r\n", "\n"), "messages are not markup"


def test_other_streams_get_plain_lines() -> None:
    stream = io.StringIO()
    with ProgressConsole(stream) as console:
        console.start_task("nano bias/winogender", 2, 7)
        console.update("sentences", 60, 240)  # too soon after the last line
        console.print("error: no head")
    assert stream.getvalue().splitlines() == ["2/7 nano bias/winogender", "error: no head"]
