"""Batches built ahead of the step that uses them."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from megatron_ettin.train.prefetch import build_ahead


def test_each_step_gets_its_own_batches_in_order() -> None:
    built: list[int] = []

    def build(step: int) -> Any:
        built.append(step)
        return [step]

    with build_ahead(build, range(3, 7)) as batches_of:
        found: list[Any] = [batches_of(step) for step in range(3, 7)]
    assert found == [[3], [4], [5], [6]]
    assert built == [3, 4, 5, 6]


def test_the_next_step_is_built_while_this_one_is_used() -> None:
    begun = threading.Event()

    def build(step: int) -> Any:
        if step == 1:
            begun.set()
        return []

    with build_ahead(build, range(2)) as batches_of:
        batches_of(0)
        assert begun.wait(timeout=10)


def test_an_error_reaches_the_loop_and_no_thread_is_left() -> None:
    def build(step: int) -> Any:
        raise OSError("the corpus is gone")

    with pytest.raises(OSError, match="the corpus is gone"), build_ahead(build, range(3)) as batches_of:
        batches_of(0)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("feed")]


def test_a_loop_that_stops_early_leaves_no_thread() -> None:
    with build_ahead(lambda step: [], range(1000)) as batches_of:
        batches_of(0)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("feed")]
