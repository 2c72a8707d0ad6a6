"""What a person sees of an evaluation: a bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from megatron_ettin.cli import ProgressLine


class Screen:
    """Shows how far an evaluation is. Use it as a context: leaving it takes the bar away."""

    def __init__(self, stream: TextIO) -> None:
        """Write to ``stream``."""
        self._stream = stream
        self._label = ""
        self._line = ProgressLine(stream)
        self._bar: Progress | None = None
        if stream.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(file=stream), expand=True, transient=True)
            self._tasks = self._bar.add_task("tasks", total=None)
            self._steps = self._bar.add_task("", total=None)

    def __enter__(self) -> Screen:
        """Show the bar."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Take the bar away."""
        if self._bar:
            self._bar.stop()

    def begin(self, label: str, number: int, total: int) -> None:
        """Say which task begins, that it is task ``number`` from 1, and of how many."""
        self._label = f"{number}/{total} {label}"
        if self._bar:
            self._bar.update(self._tasks, completed=number - 1, total=total, description=f"tasks: {label}")
            self._bar.reset(self._steps, total=None, description="")
        else:
            self.note(self._label)

    def show(self, doing: str, done: int, total: int) -> None:
        """Say what is being done, how much of it is done, and of how much."""
        if self._bar:
            self._bar.update(self._steps, description=doing, completed=done, total=total)
        else:
            self._line.update(f"{self._label}: {doing} {done}/{total}")

    def note(self, text: str) -> None:
        """Write a line that stays."""
        if self._bar:
            self._bar.console.print(Text(text), soft_wrap=True)
        else:
            self._stream.write(text + "\n")
            self._stream.flush()
