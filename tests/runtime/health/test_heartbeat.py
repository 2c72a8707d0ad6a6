"""Whose fault a stall is, told from what the ranks last said."""

from __future__ import annotations

import threading
from dataclasses import replace

from megatron_ettin.runtime.health.heartbeat import Beat, late_ranks, place_of, silent_ranks, verdict


def beat(rank: int, **told: object) -> Beat:
    usual = Beat(rank, "node1", 100 + rank, 50, 12, "training", marks=30, waits=True, place="train/step.py:70, _total")
    return replace(usual, **told)  # type: ignore[arg-type]


def beats(*told: Beat) -> dict[int, Beat]:
    return {each.rank: each for each in told}


def test_rank_that_says_nothing_new_is_silent() -> None:
    earlier = beats(beat(0), beat(1), beat(2))
    later = beats(beat(0, count=54), beat(1), beat(2, count=53))
    silent = silent_ranks(earlier, later)
    assert [each.rank for each in silent] == [1]
    assert verdict(silent, later) == "rank 1 (process 101 on node1) does not answer, last heard of at step 12, training"


def test_rank_that_is_alive_but_behind_is_late() -> None:
    assert [each.rank for each in late_ranks(beats(beat(0), beat(1, marks=29, step=11), beat(2)))] == [1]


def test_rank_that_works_while_the_others_wait_is_late() -> None:
    busy = beat(2, waits=False, place="data/rows.py:40, row")
    told = verdict([], beats(beat(0), beat(1), busy))
    assert told == "rank 2 (process 102 on node1) is late: step 12, training, at data/rows.py:40, row"


def test_alike_ranks_are_all_told_of() -> None:
    told = verdict([], beats(beat(0), beat(1)))
    assert told.startswith("all ranks are alive and stand alike; rank 0: step 12")
    assert "rank 1" in told


def test_beat_survives_the_store() -> None:
    assert Beat.decoded(beat(3).encoded().encode()) == beat(3)


def test_place_of_a_thread_is_its_source_line() -> None:
    block = threading.Event()
    thread = threading.Thread(target=block.wait, daemon=True)
    thread.start()
    assert thread.ident is not None
    first, second = place_of(thread.ident), place_of(thread.ident)
    assert first == second
    assert "threading.py" in first.source
    assert not first.waits
    block.set()
    thread.join()
