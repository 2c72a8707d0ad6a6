"""Count what preprocessing has done, and report it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

SHOWN_SKIPPED = 10
"""Skipped records that the report at the end lists."""


@dataclass
class Progress:
    """Counts of what was read and encoded."""

    documents: int = 0
    empty_documents: int = 0
    skipped: int = 0
    text_bytes: int = 0
    tokens: int = 0
    input_bytes: int = 0
    """Of the files on disk, compressed where they are."""
    all_input_bytes: int = 0
    """Total of ``input_bytes``; 0 where a pipe makes it unknown."""

    def add(self, other: Progress) -> None:
        """Add the counts of a further batch or part."""
        self.documents += other.documents
        self.empty_documents += other.empty_documents
        self.skipped += other.skipped
        self.text_bytes += other.text_bytes
        self.tokens += other.tokens
        self.input_bytes += other.input_bytes

    def negative(self) -> Progress:
        """Return the counts that take these back when added."""
        return Progress(**{name: -value for name, value in vars(self).items()})


class ProgressText:
    """Formats progress. Rates are those of this run; totals include what an earlier run finished."""

    def __init__(self) -> None:
        """Start the clock."""
        self._start = time.monotonic()
        self._resumed: Progress | None = None

    def line(self, progress: Progress) -> str:
        """Return documents, tokens, rates, share done and time left in one line."""
        if self._resumed is None:
            self._resumed = Progress()
            self._resumed.add(progress)
            self._start = time.monotonic()
        seconds = max(time.monotonic() - self._start, 1e-9)
        fields = [
            f"{progress.documents:,} documents",
            f"{progress.tokens:,} tokens",
            f"{(progress.text_bytes - self._resumed.text_bytes) / seconds / 1e6:.1f} MB/s",
            f"{(progress.tokens - self._resumed.tokens) / seconds:,.0f} tokens/s",
        ]
        done = progress.input_bytes - self._resumed.input_bytes
        left = progress.all_input_bytes - progress.input_bytes
        if done > 0 and left > 0:
            fields.append(f"{progress.input_bytes / progress.all_input_bytes:.0%}")
            fields.append(f"{timedelta(seconds=round(seconds * left / done))} left")
        return ", ".join(fields)


def result_lines(progress: Progress, skipped_file: str) -> list[str]:
    """Return the report at the end: empty documents, and skipped records."""
    lines = []
    if progress.empty_documents:
        lines.append(f"{progress.empty_documents:,} documents are empty; they keep their place and have no tokens")
    if skipped_file:
        with Path(skipped_file).open(encoding="utf-8") as file:
            lines += [line.rstrip("\n") for line, _ in zip(file, range(SHOWN_SKIPPED), strict=False)]
        lines.append(f"{progress.skipped:,} records were skipped; all are listed in {skipped_file}")
    return lines
