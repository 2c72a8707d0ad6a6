"""A training step on a GPU: one synchronisation, batches in pinned memory, timing by events."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest

from megatron_ettin.data.batch import PackedBatch
from tests.gpu.test_backends import backends, build, chunks_of, run_of
from tests.helpers.batches import packed_batch

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

OPTIMIZERS = (
    {"optimizer": "adamw", "clip_grad": 1e-3},
    {"optimizer": "stable_adamw", "clip_grad": 0.0},
    {"optimizer": "stable_adamw", "clip_grad": 0.0, "use_distributed_optimizer": True},
    {"optimizer": "muon"},
)


def batches_of(step: int, objective: str = "mlm") -> list[PackedBatch]:
    return [
        packed_batch(chunks_of(10 * step + part), causal=objective == "clm", seed=part, mask_id=4) for part in range(3)
    ]


@contextmanager
def synchronisations(mode: str) -> Iterator[list[str]]:
    """Record the synchronisations of the host with the GPU; mode ``error`` raises instead."""
    syncs: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode(mode)
        try:
            yield syncs
        finally:
            torch.cuda.set_sync_debug_mode("default")
            syncs += [str(each.message) for each in caught if "synchronizing CUDA operation" in str(each.message)]


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_forward_and_backward_do_not_synchronise(objective: str) -> None:
    from megatron_ettin.train.step import run_schedule

    for backend in backends():
        training = build(run_of(objective, **backend))
        run_schedule(training, batches_of(0, objective), forward_only=False)  # compiles
        with synchronisations("error"):
            run_schedule(training, batches_of(0, objective), forward_only=False)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_a_step_synchronises_once(optimizer: dict[str, Any]) -> None:
    from megatron_ettin.train.step import train_step

    for backend in backends():
        training = build(run_of("mlm", **{**backend, **optimizer}))
        for step in range(3):
            train_step(training, batches_of(step), 1e-3)
        training.stopwatch.start()
        with synchronisations("warn") as syncs:
            result = train_step(training, batches_of(3), 1e-3)
            assert training.stopwatch.seconds() > 0
        assert result.applied
        assert len(syncs) == 1, (backend, syncs)


def test_page_locked_batches_train_alike() -> None:
    from megatron_ettin.runtime.device import Device
    from megatron_ettin.train.prefetch import BatchPrefetcher
    from megatron_ettin.train.step import train_step

    losses = []
    for lock in (False, True):
        training = build(run_of("mlm", bf16=True))
        device = training.device if lock else Device("cpu", 0)
        with BatchPrefetcher(batches_of, range(20), device) as prefetcher:
            curve = []
            for step in range(20):
                batches = prefetcher.batches(step)
                arrays = [batches[0].tokens_T, batches[0].scored_K, batches[0].cu_seqlens]
                assert all(torch.from_numpy(array).is_pinned() == lock for array in arrays)
                curve.append(train_step(training, batches, 1e-3).sums.loss)
        losses.append(curve)
    # Sums of gradients differ from run to run where kernels add atomically.
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


def test_work_is_timed_on_the_gpu_without_synchronising() -> None:
    from megatron_ettin.runtime.device import choose_device
    from megatron_ettin.runtime.performance import Stopwatch

    watch = Stopwatch(choose_device("cuda"))
    spin = partial(torch.cuda._sleep, 200_000_000)  # cycles: about 0.1 s
    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with synchronisations("error"):
        started.record()
        watch.start()
        spin()
        watch.arrive()
        ended.record()
        spin()
    torch.cuda.synchronize()
    assert watch.seconds() == pytest.approx(started.elapsed_time(ended) / 1e3, rel=0.05)
    assert watch.seconds() == 0.0, "each step is counted once"
