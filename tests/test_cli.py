"""What the command lines in tools/ share."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Sequence

import pytest

from megatron_ettin.cli import ProgressLine, ToolParser, positive, run_tool
from megatron_ettin.errors import ConfigError


def parser() -> ToolParser:
    parser = ToolParser("A tool.")
    parser.add_argument("--input", required=True)
    parser.add_argument("--workers", type=positive, default=1)
    return parser


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--inptu", "x"], r"^--inptu: unknown flag; did you mean --input\?$"),
        (["--inptu=x"], r"^--inptu: unknown flag; did you mean --input\?$"),
        (["--inp", "x"], r"^--inp: unknown flag"),
        (["--workers", "2"], r"--input"),
        (["--input", "x", "--workers", "0"], r"^--workers: 0 is not a positive integer$"),
        (["--input", "x", "--workers", "1.5"], r"^--workers: 1.5 is not a positive integer$"),
        (["--input", "x", "y"], r"unrecognized arguments: y"),
    ],
)
def test_wrong_flags_raise_config_errors(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parser().parse(arguments)


def test_flags_are_parsed() -> None:
    options = parser().parse(["--input=--odd", "--workers", "3"])
    assert (options.input, options.workers) == ("--odd", 3)


@pytest.fixture
def exit_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Sequence[str]], int]], int | str | None]:
    monkeypatch.setattr(sys, "argv", ["tool", "--flag"])
    before = signal.getsignal(signal.SIGTERM)

    def run(main: Callable[[Sequence[str]], int]) -> int | str | None:
        try:
            with pytest.raises(SystemExit) as exit_:
                run_tool(main)
        finally:
            signal.signal(signal.SIGTERM, before)
        return exit_.value.code

    return run


def test_errors_print_one_line_and_set_the_exit_code(exit_of, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    def wrong(arguments: Sequence[str]) -> int:
        raise ConfigError("--flag x: is\nwrong")

    def missing(arguments: Sequence[str]) -> int:
        return len(open("/nowhere/file").read())  # noqa: PTH123

    def stopped(arguments: Sequence[str]) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            sys.stderr.write("cleaned up\n")
        return 0

    def bug(arguments: Sequence[str]) -> int:
        raise KeyError(3)

    assert exit_of(lambda arguments: len(arguments)) == 1
    assert exit_of(wrong) == 2
    assert exit_of(missing) == 2
    assert exit_of(stopped) == 143
    output = "error: --flag x: is wrong\nerror: /nowhere/file: No such file or directory\ncleaned up\n"
    assert capsys.readouterr().err == output
    with pytest.raises(KeyError):  # a bug keeps its traceback
        run_tool(bug)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_overwrites_a_terminal_line_and_is_rare_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("megatron_ettin.cli.time.monotonic", lambda: now)
    terminal, log = Terminal(), io.StringIO()
    lines = [ProgressLine(terminal), ProgressLine(log)]
    for now in (0.1, 0.3, 0.4, 10.0, 40.0):
        for line in lines:
            line.update("x" * int(now * 10))
    for line in lines:
        line.finish("end")
    written = terminal.getvalue()
    assert [len(part) for part in written.split("\r")[:3]] == [3, 100, 400], "the updates at 0.1 and 0.4 are too early"
    assert written.endswith(f"\r{'end':400}\n")
    assert log.getvalue() == "x" * 400 + "\nend\n"
