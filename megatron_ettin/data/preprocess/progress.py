"""Progress in words."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

from megatron_ettin.data.preprocess.settings import Progress

SHOWN_SKIPPED = 10


class ProgressText:
    """Rates are of this run; what an earlier one finished counts for the total only."""

    def __init__(self) -> None:
        """Start the clock."""
        self._begin = time.monotonic()
        self._before: Progress | None = None

    def tell(self, progress: Progress) -> str:
        """Return documents, tokens, rates, share done and time left in one line."""
        if self._before is None:
            self._before = Progress(
                text_bytes=progress.text_bytes, tokens=progress.tokens, input_bytes=progress.input_bytes
            )
            self._begin = time.monotonic()
        seconds = max(time.monotonic() - self._begin, 1e-9)
        words = [
            f"{progress.documents:,} documents",
            f"{progress.tokens:,} tokens",
            f"{(progress.text_bytes - self._before.text_bytes) / seconds / 1e6:.1f} MB/s",
            f"{(progress.tokens - self._before.tokens) / seconds:,.0f} tokens/s",
        ]
        done = progress.input_bytes - self._before.input_bytes
        left = progress.all_input_bytes - progress.input_bytes
        if done > 0 and left > 0:
            words.append(f"{progress.input_bytes / progress.all_input_bytes:.0%}")
            words.append(f"{timedelta(seconds=round(seconds * left / done))} left")
        return ", ".join(words)


def tell_result(progress: Progress, skipped_file: str) -> list[str]:
    """Return what deserves a word at the end: empty documents, and what was left out."""
    lines = []
    if progress.empty_documents:
        lines.append(f"{progress.empty_documents:,} documents are empty; they keep their place and have no token")
    if skipped_file:
        with Path(skipped_file).open(encoding="utf-8") as file:
            lines += [line.rstrip("\n") for line, _ in zip(file, range(SHOWN_SKIPPED), strict=False)]
        lines.append(f"{progress.skipped:,} records were left out; all are listed in {skipped_file}")
    return lines
