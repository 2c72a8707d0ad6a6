"""The projection in docs/scaling.md: its arithmetic, and that the document contains the script's table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.scaling import AUTHORS_HOURS, Network, authors_rate, exchange_seconds, hours

ROOT = Path(__file__).resolve().parents[1]


def test_the_document_contains_the_printed_table() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert printed.stdout.strip() in (ROOT / "docs" / "scaling.md").read_text()


def test_one_gpu_needs_no_exchange() -> None:
    assert exchange_seconds(10**9, 1, Network()) == 0
    assert hours(10**9, 1e6, 1, Network()) == pytest.approx(2e12 / 1e6 / 3600)


def test_authors_rate_gives_their_hours() -> None:
    assert authors_rate("150m") == pytest.approx(295_508, abs=1)
    free = Network(in_node_bytes_per_second=1e30, latency_seconds=0.0)
    assert hours(10**9, authors_rate("1b"), 4, free) == pytest.approx(AUTHORS_HOURS["1b"])


def test_exchange_by_hand() -> None:
    """A billion parameters on 16 GPUs of two nodes: 6 GB x 15 / 16 at 40 GB/s, and 8 exchanges of 20 us."""
    assert exchange_seconds(10**9, 16, Network()) == pytest.approx(0.140625 + 160e-6)
    assert exchange_seconds(10**9, 8, Network()) == pytest.approx(6e9 * 7 / 8 / 360e9 + 120e-6)


def test_more_gpus_take_less_time_and_more_gpu_hours() -> None:
    elapsed = [hours(150_000_000, 300_000, gpus, Network()) for gpus in (1, 4, 32, 256)]
    assert elapsed == sorted(elapsed, reverse=True)
    spent = [time * gpus for time, gpus in zip(elapsed, (1, 4, 32, 256), strict=True)]
    assert spent == sorted(spent)
