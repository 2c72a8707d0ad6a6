"""Progress of an evaluation on the console: progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from megatron_ettin.cli import ProgressLine


class ProgressConsole:
    """Shows the progress of an evaluation. A context manager: leaving it removes the progress bars."""

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

    def __enter__(self) -> ProgressConsole:
        """Show the progress bars."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Remove the progress bars."""
        if self._bar:
            self._bar.stop()

    def start_task(self, label: str, number: int, total: int) -> None:
        """Announce the start of task ``number`` (from 1) of ``total``."""
        self._label = f"{number}/{total} {label}"
        if self._bar:
            self._bar.update(self._tasks, completed=number - 1, total=total, description=f"tasks: {label}")
            self._bar.reset(self._steps, total=None, description="")
        else:
            self.print(self._label)

    def update(self, activity: str, done: int, total: int) -> None:
        """Show the progress of the current task's activity, in units of that activity."""
        if self._bar:
            self._bar.update(self._steps, description=activity, completed=done, total=total)
        else:
            self._line.update(f"{self._label}: {activity} {done}/{total}")

    def print(self, text: str) -> None:
        """Print a permanent line."""
        if self._bar:
            self._bar.console.print(Text(text), soft_wrap=True)
        else:
            self._stream.write(text + "\n")
            self._stream.flush()
