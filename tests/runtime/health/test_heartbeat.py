"""Which rank causes a stall, by the last heartbeats."""

from __future__ import annotations

import threading
from dataclasses import replace

from megatron_ettin.runtime.health.heartbeat import Beat, late_ranks, silent_ranks, thread_location, verdict


def beat(rank: int, **fields: object) -> Beat:
    default = Beat(
        rank, "node1", 100 + rank, 50, 12, "training", marks=30, waits=True, location="train/step.py:70, _total"
    )
    return replace(default, **fields)  # type: ignore[arg-type]


def by_rank(*beats: Beat) -> dict[int, Beat]:
    return {each.rank: each for each in beats}


def test_rank_without_a_new_beat_is_silent() -> None:
    earlier = by_rank(beat(0), beat(1), beat(2))
    later = by_rank(beat(0, count=54), beat(1), beat(2, count=53))
    silent = silent_ranks(earlier, later)
    assert [each.rank for each in silent] == [1]
    assert (
        verdict(silent, later) == "rank 1 (process 101 on node1) does not answer, last heard from at step 12, training"
    )


def test_rank_with_fewer_marks_is_late() -> None:
    assert [each.rank for each in late_ranks(by_rank(beat(0), beat(1, marks=29, step=11), beat(2)))] == [1]


def test_busy_rank_is_late_while_the_others_wait() -> None:
    busy = beat(2, waits=False, location="data/rows.py:40, row")
    text = verdict([], by_rank(beat(0), beat(1), busy))
    assert text == "rank 2 (process 102 on node1) is late: step 12, training, at data/rows.py:40, row"


def test_ranks_at_the_same_point_are_all_named() -> None:
    text = verdict([], by_rank(beat(0), beat(1)))
    assert text.startswith("all ranks are alive and at the same point; rank 0: step 12")
    assert "rank 1" in text


def test_decoded_beat_equals_the_encoded_one() -> None:
    assert Beat.decoded(beat(3).encoded().encode()) == beat(3)


def test_location_of_a_thread_is_its_source_line() -> None:
    block = threading.Event()
    thread = threading.Thread(target=block.wait, daemon=True)
    thread.start()
    assert thread.ident is not None
    first, second = thread_location(thread.ident), thread_location(thread.ident)
    assert first == second
    assert "threading.py" in first.source
    assert not first.waits
    block.set()
    thread.join()
