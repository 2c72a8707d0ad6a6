"""Batches are built ahead of the step that uses them, and page-locked for a GPU."""

from __future__ import annotations

import threading
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.runtime.device import Device
from megatron_ettin.train import prefetch
from megatron_ettin.train.prefetch import BatchPrefetcher
from tests.helpers.training import global_batch

CPU = Device("cpu", 0)


def running_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_each_step_gets_its_own_batches_in_order() -> None:
    built: list[int] = []

    def build(step: int) -> Any:
        built.append(step)
        return [step]

    with BatchPrefetcher(build, range(3, 7), CPU) as prefetcher:
        batches: list[Any] = [prefetcher.batches(step) for step in range(3, 7)]
    assert batches == [[3], [4], [5], [6]]
    assert built == [3, 4, 5, 6]


def test_the_next_step_is_built_while_this_one_is_used() -> None:
    started = threading.Event()

    def build(step: int) -> Any:
        if step == 1:
            started.set()
        return []

    with BatchPrefetcher(build, range(2), CPU) as prefetcher:
        prefetcher.batches(0)
        assert started.wait(timeout=10)


def test_an_error_reaches_the_loop_and_no_thread_is_left() -> None:
    def build(step: int) -> Any:
        raise OSError("the corpus is gone")

    with pytest.raises(OSError, match="the corpus is gone"), BatchPrefetcher(build, range(3), CPU) as prefetcher:
        prefetcher.batches(0)
    assert not running_threads()


def test_a_loop_that_stops_early_leaves_no_thread() -> None:
    with BatchPrefetcher(lambda step: [], range(1000), CPU) as prefetcher:
        prefetcher.batches(0)
    assert not running_threads()


def build_batches(step: int) -> list[PackedBatch]:
    return global_batch(step, "mlm", 128)


def test_a_cpu_gets_the_batches_unchanged() -> None:
    built = build_batches(0)
    with BatchPrefetcher(lambda step: built, range(1), CPU) as prefetcher:
        assert prefetcher.batches(0) is built


def test_the_thread_pins_every_array_on_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Page-locking is replaced by a copy, as there is no GPU."""
    pinned_by: list[str] = []
    devices: dict[str, int] = {}

    def pin(array: np.ndarray) -> np.ndarray:
        pinned_by.append(threading.current_thread().name)
        return array.copy()

    monkeypatch.setattr(prefetch, "_pin", pin)
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda index: devices.__setitem__(threading.current_thread().name, index)
    )
    with BatchPrefetcher(build_batches, range(2), Device("cuda", 3)) as prefetcher:
        steps = [prefetcher.batches(step) for step in range(2)]
    assert set(devices) == set(pinned_by)
    assert set(devices.values()) == {3}
    assert all(name.startswith("prefetch") for name in pinned_by)
    arrays = 0
    for step, batches in enumerate(steps):
        for batch, plain in zip(batches, build_batches(step), strict=True):
            for field in fields(plain):
                expected, actual = getattr(plain, field.name), getattr(batch, field.name)
                np.testing.assert_array_equal(actual, expected)
                arrays += isinstance(expected, np.ndarray)
            assert batch.lengths == plain.lengths
    assert len(pinned_by) == arrays > 0


def test_an_empty_array_is_not_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A micro-batch without scored tokens: CUDA cannot lock empty memory."""
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    monkeypatch.setattr(prefetch, "_pin", lambda array: array.copy() if array.size else pytest.fail("nothing to lock"))
    empty = np.zeros(0, dtype=np.int64)
    batch = PackedBatch(np.arange(3), np.arange(3), np.array([0, 3], dtype=np.int32), empty, empty, 3)
    with BatchPrefetcher(lambda step: [batch], range(1), Device("cuda", 0)) as prefetcher:
        (pinned,) = prefetcher.batches(0)
    assert pinned.scored_K.dtype == np.int64
    assert len(pinned.scored_K) == 0
