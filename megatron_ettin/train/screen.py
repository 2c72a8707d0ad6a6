"""What a person sees of a run: a progress bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Protocol

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from megatron_ettin.train.metrics import Record


class Screen(Protocol):
    """Shows a run; the loop does not know which kind it has."""

    def note(self, text: str) -> None:
        """Tell something that happens once, in one line."""

    def show(self, record: Record) -> None:
        """Show the figures of a step."""

    def close(self, title: str = "", rows: Mapping[str, str] | None = None) -> None:
        """End, with a box of what came out where there is something to tell."""


def open_screen(*, is_main: bool, first_step: int, last_step: int, console: Console | None = None) -> Screen:
    """Return the screen of this rank: one rank speaks, the others are silent.

    Args:
        is_main: whether this rank speaks.
        first_step: steps already made.
        last_step: step at which the run is complete.
        console: where to write; standard output unless something else is given.
    """
    if not is_main:
        return SilentScreen()
    console = console or Console(highlight=False)
    kind = BarScreen if console.is_terminal else LineScreen
    return kind(console, first_step, last_step)


class SilentScreen:
    """Shows nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def show(self, record: Record) -> None:
        """Do nothing."""

    def close(self, title: str = "", rows: Mapping[str, str] | None = None) -> None:
        """Do nothing."""


class LineScreen:
    """One line a record, for files and pipes: nothing is folded, cut or coloured."""

    def __init__(self, console: Console, first_step: int, last_step: int) -> None:
        self._file = console.file
        self._pace = _Pace(first_step, last_step)
        self._last_step = last_step

    def note(self, text: str) -> None:
        """Write a line."""
        self._file.write(text + "\n")
        self._file.flush()

    def show(self, record: Record) -> None:
        """Write the figures as one line."""
        self.note(f"step {record['step']}/{self._last_step} | {figures(record)} | {self._pace.left(record)} left")

    def close(self, title: str = "", rows: Mapping[str, str] | None = None) -> None:
        """Write the rows."""
        if rows:
            width = max(map(len, rows))
            self.note("\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows.items())]))


class BarScreen:
    """A bar at the foot of the terminal with the latest figures below it; notes scroll by above."""

    def __init__(self, console: Console, first_step: int, last_step: int) -> None:
        self._console = console
        self._pace = _Pace(first_step, last_step)
        self._bar = _BarWithFigures(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(None),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            expand=True,
        )
        self._task = self._bar.add_task("", total=last_step, completed=first_step, left="")
        self._bar.start()

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(Text(text))

    def show(self, record: Record) -> None:
        """Move the bar and replace the figures."""
        self._bar.figures = figures(record)
        self._bar.update(self._task, completed=record["step"], left=f"{self._pace.left(record)} left")

    def close(self, title: str = "", rows: Mapping[str, str] | None = None) -> None:
        """Leave the bar as it stands and print a box."""
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


class _Pace:
    """Tells the time left from how fast this launch has gone so far."""

    def __init__(self, first_step: int, last_step: int) -> None:
        self._first_step = first_step
        self._last_step = last_step
        self._started = time.monotonic()

    def left(self, record: Record) -> str:
        made = record["step"] - self._first_step
        seconds_a_step = (time.monotonic() - self._started) / max(1, made)
        return format_duration(seconds_a_step * max(0, self._last_step - record["step"]))


_LABELS = {
    "tokens": ("tokens", "{:,}"),
    "loss": ("loss", "{:.4f}"),
    "masked_accuracy": ("masked accuracy", "{:.1%}"),
    "perplexity": ("perplexity", "{:.2f}"),
    "validation_loss": ("validation loss", "{:.4f}"),
    "learning_rate": ("learning rate", "{:.3g}"),
    "gradient_norm": ("gradient norm", "{:.3f}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
}


def figures(record: Record) -> str:
    """Return a record's figures in words, without the step."""
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
