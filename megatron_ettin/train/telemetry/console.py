"""Console output of a run: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from megatron_ettin.config.value_types import format_token_count
from megatron_ettin.train.telemetry.metrics import Record


class RunConsole(Protocol):
    """Where a run reports its progress."""

    def note(self, text: str) -> None:
        """Print one line about an event."""

    def show(self, record: Record) -> None:
        """Print the figures of a step."""

    def close(self, title: str = "", rows: Mapping[str, str] | None = None) -> None:
        """End the output, with a summary if ``rows`` are given."""


@dataclass(frozen=True)
class Goal:
    """Where this launch starts and the run ends, in steps or in tokens."""

    unit: Literal["step", "tokens"]
    """The key of a record that counts."""
    start: int
    end: int

    def reached(self, record: Record) -> str:
        """Return the progress at a record."""
        if self.unit == "step":
            return f"step {record['step']}/{self.end}"
        share = record["tokens"] / max(1, self.end)
        return f"step {record['step']} | {share:.1%} of {format_token_count(self.end)} tokens"


def open_console(*, is_main: bool, goal: Goal, console: Console | None = None) -> RunConsole:
    """Return the console of this rank; only the main rank prints.

    Args:
        is_main: whether this is the main rank.
        goal: the range of the progress.
        console: where to print; standard output by default.
    """
    if not is_main:
        return SilentConsole()
    console = console or Console(highlight=False)
    return ProgressConsole(console, goal) if console.is_terminal else LineConsole(console, goal)


class SilentConsole:
    """Prints nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def show(self, record: Record) -> None:
        """Do nothing."""

    def close(self, title: str = "", rows: Mapping[str, str] | None = None) -> None:
        """Do nothing."""


class LineConsole:
    """One line per record for files and pipes: not wrapped, truncated or coloured."""

    def __init__(self, console: Console, goal: Goal) -> None:
        self._file = console.file
        self._clock = _Clock(goal)
        self._goal = goal

    def note(self, text: str) -> None:
        """Print a line."""
        self._file.write(text + "\n")
        self._file.flush()

    def show(self, record: Record) -> None:
        """Print the figures as one line."""
        self.note(f"{self._goal.reached(record)} | {figures(record)} | {self._clock.left(record)} left")

    def close(self, title: str = "", rows: Mapping[str, str] | None = None) -> None:
        """Print the summary."""
        if rows:
            width = max(map(len, rows))
            self.note("\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows.items())]))


class ProgressConsole:
    """A progress bar at the bottom of the terminal, the latest figures below it and notes above it."""

    def __init__(self, console: Console, goal: Goal) -> None:
        self._console = console
        self._clock = _Clock(goal)
        self._unit = goal.unit
        self._bar = _BarWithFigures(
            TextColumn(goal.unit),
            MofNCompleteColumn(),
            BarColumn(None),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            expand=True,
        )
        self._task = self._bar.add_task("", total=goal.end, completed=goal.start, left="")
        self._bar.start()

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(Text(text))

    def show(self, record: Record) -> None:
        """Move the bar and replace the figures."""
        self._bar.figures = figures(record)
        self._bar.update(self._task, completed=record[self._unit], left=f"{self._clock.left(record)} left")

    def close(self, title: str = "", rows: Mapping[str, str] | None = None) -> None:
        """Stop the bar and print the summary in a box."""
        self._bar.stop()
        if not rows:
            return
        table = Table.grid(padding=(0, 2))
        for name, value in rows.items():
            table.add_row(Text(name), Text(value))
        self._console.print(Panel(table, title=title, expand=False))


class _BarWithFigures(Progress):
    figures = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.figures)


class _Clock:
    """Estimates the time left from the speed of this launch so far."""

    def __init__(self, goal: Goal) -> None:
        self._goal = goal
        self._started = time.monotonic()

    def left(self, record: Record) -> str:
        done = record[self._goal.unit]
        seconds_each = (time.monotonic() - self._started) / max(1, done - self._goal.start)
        return format_duration(seconds_each * max(0, self._goal.end - done))


_LABELS = {
    "tokens": ("tokens", "{:,}"),
    "loss": ("loss", "{:.4f}"),
    "masked_accuracy": ("masked accuracy", "{:.1%}"),
    "perplexity": ("perplexity", "{:.2f}"),
    "validation_loss": ("validation loss", "{:.4f}"),
    "learning_rate": ("learning rate", "{:.3g}"),
    "gradient_norm": ("gradient norm", "{:.3f}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
    "skipped": ("skipped steps", "{}"),
}


def figures(record: Record) -> str:
    """Return a record's figures with their labels, without the step."""
    shown = ((label, form.format(record[name])) for name, (label, form) in _LABELS.items() if name in record)
    return " | ".join(f"{label} {value}" for label, value in shown)


def format_duration(seconds: float) -> str:
    """Return hours, minutes and seconds as ``1:02:03``, or ``02:03`` below an hour.

    >>> format_duration(3723.4), format_duration(75)
    ('1:02:03', '01:15')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"
