"""Progress lines: rates of this run, totals of all runs."""

from __future__ import annotations

import pytest

from megatron_ettin.data.preprocess import progress
from megatron_ettin.data.preprocess.progress import Progress, ProgressText


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_rates_and_time_left_exclude_an_earlier_run(clock: list[float]) -> None:
    text = ProgressText()
    done = Progress(10, 0, 0, 5_000_000, 1000, 100, 1000)  # an earlier run finished a tenth
    text.line(done)
    clock[0] += 4
    done.add(Progress(documents=20, text_bytes=8_000_000, tokens=2000, input_bytes=300))
    assert text.line(done) == "30 documents, 3,000 tokens, 2.0 MB/s, 500 tokens/s, 40%, 0:00:08 left"


def test_a_pipe_has_no_share_or_time_left(clock: list[float]) -> None:
    text = ProgressText()
    text.line(Progress())
    clock[0] += 1
    assert text.line(Progress(1, 0, 0, 1_000_000, 10)) == "1 documents, 10 tokens, 1.0 MB/s, 10 tokens/s"
