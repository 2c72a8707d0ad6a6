"""What preprocessing tells of its progress."""

from __future__ import annotations

import pytest

from megatron_ettin.data.preprocess import progress
from megatron_ettin.data.preprocess.progress import ProgressText
from megatron_ettin.data.preprocess.settings import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_rates_and_the_time_left_are_of_this_run(clock: list[float]) -> None:
    words = ProgressText()
    done = Progress(10, 0, 0, 5_000_000, 1000, 100, 1000)  # an earlier run finished a tenth
    words.tell(done)
    clock[0] += 4
    done.add(Progress(documents=20, text_bytes=8_000_000, tokens=2000, input_bytes=300))
    told = words.tell(done)
    assert told == "30 documents, 3,000 tokens, 2.0 MB/s, 500 tokens/s, 40%, 0:00:08 left"


def test_the_end_of_a_pipe_is_not_known(clock: list[float]) -> None:
    words = ProgressText()
    words.tell(Progress())
    clock[0] += 1
    assert words.tell(Progress(1, 0, 0, 1_000_000, 10)) == "1 documents, 10 tokens, 1.0 MB/s, 10 tokens/s"
