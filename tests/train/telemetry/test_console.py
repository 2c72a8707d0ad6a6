"""Console output on a terminal and in a pipe."""

from __future__ import annotations

import io

from rich.console import Console

from megatron_ettin.train.telemetry.console import Goal, RunConsole, open_console
from megatron_ettin.train.telemetry.metrics import Record

RECORD: Record = {
    "step": 50,
    "tokens": 123_456,
    "loss": 2.5,
    "masked_accuracy": 0.251,
    "learning_rate": 3e-3,
    "gradient_norm": 0.75,
    "tokens_per_second": 9876.5,
    "validation_loss": 2.75,
}
SHOWN = ["tokens 123,456", "loss 2.5000", "masked accuracy 25.1%", "validation loss 2.7500", "learning rate 0.003"]
SHOWN += ["gradient norm 0.750", "tokens/s 9,876"]


def report(*, terminal: bool, is_main: bool = True) -> str:
    """Report a short run and return everything that was printed."""
    out = io.StringIO()
    rich_console = Console(file=out, force_terminal=terminal, width=200, _environ={})
    console: RunConsole = open_console(is_main=is_main, goal=Goal("step", 40, 100), console=rich_console)
    console.note("loaded [somewhere]")
    console.show(RECORD)
    console.close("trained", {"steps": "100", "checkpoint": "runs/x"})
    console.close()
    return out.getvalue()


def test_pipe_gets_one_plain_line_per_record() -> None:
    lines = report(terminal=False).splitlines()
    assert lines[0] == "loaded [somewhere]"
    assert lines[1].startswith("step 50/100 | ")
    assert lines[1].endswith(" left")
    assert all(figure in lines[1] for figure in SHOWN)
    assert lines[2:] == ["trained", "  steps       100", "  checkpoint  runs/x"]


def test_terminal_gets_a_bar_figures_and_a_summary() -> None:
    text = report(terminal=True)
    assert "50/100" in text
    assert "50%" in text
    assert "left" in text
    assert all(figure in text for figure in SHOWN)
    assert "loaded [somewhere]" in text
    assert "─ trained ─" in text


def test_other_ranks_are_silent() -> None:
    assert report(terminal=True, is_main=False) == ""


def test_pipe_is_not_wrapped() -> None:
    out = io.StringIO()
    console = open_console(is_main=True, goal=Goal("step", 0, 1), console=Console(file=out, width=20))
    console.show(RECORD)
    assert len(out.getvalue().splitlines()) == 1
