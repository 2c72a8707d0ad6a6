"""Batches for a GPU are page-locked by the thread that builds them; those for a CPU are left alone."""

from __future__ import annotations

import threading
from dataclasses import fields

import numpy as np
import pytest
import torch

from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.runtime.device import Device
from megatron_ettin.train import prefetch as module
from megatron_ettin.train.prefetch import build_ahead, pinned
from tests.helpers.training import global_batch


def build(step: int) -> list[PackedBatch]:
    return global_batch(step, "mlm", 128)


def test_a_cpu_gets_the_batches_as_they_are() -> None:
    assert pinned(build, Device("cpu", 0)) is build


def test_the_feeding_thread_pins_every_array_on_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """With page-locking replaced by a copy, as there is no GPU."""
    done: list[str] = []
    devices: dict[str, int] = {}

    def pin(array: np.ndarray) -> np.ndarray:
        done.append(threading.current_thread().name)
        return array.copy()

    monkeypatch.setattr(module, "_pin", pin)
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda index: devices.__setitem__(threading.current_thread().name, index)
    )
    with build_ahead(pinned(build, Device("cuda", 3)), range(2)) as batches_of:
        found = [batches_of(step) for step in range(2)]
    assert set(devices) == set(done)
    assert set(devices.values()) == {3}
    assert all(name.startswith("feed") for name in done)
    arrays = 0
    for step, batches in enumerate(found):
        for batch, plain in zip(batches, build(step), strict=True):
            for field in fields(plain):
                wanted, got = getattr(plain, field.name), getattr(batch, field.name)
                np.testing.assert_array_equal(got, wanted)
                arrays += isinstance(wanted, np.ndarray)
            assert batch.lengths == plain.lengths
    assert len(done) == arrays > 0


def test_an_empty_array_needs_no_locking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A micro-batch without scored tokens; CUDA locks no empty memory."""
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    monkeypatch.setattr(module, "_pin", lambda array: array.copy() if array.size else pytest.fail("nothing to lock"))
    empty = np.zeros(0, dtype=np.int64)
    batch = PackedBatch(np.arange(3), np.arange(3), np.array([0, 3], dtype=np.int32), empty, empty, 3)
    (found,) = pinned(lambda step: [batch], Device("cuda", 0))(0)
    assert found.scored_K.dtype == np.int64
    assert len(found.scored_K) == 0
