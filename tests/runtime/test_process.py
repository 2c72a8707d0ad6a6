"""Joining the world."""

from __future__ import annotations

from typing import Any

from megatron_ettin.runtime.health.watchdog import COLLECTIVE_GRACE_SECONDS
from tests.helpers.distributed import run_ranks
from tests.helpers.runs import tiny_run


def timeouts(run: Any) -> list[float]:
    """Return the time-outs of the world and of every parallel group, in seconds."""
    import torch
    from megatron.core import parallel_state

    from megatron_ettin.runtime.device import choose_device
    from megatron_ettin.runtime.process import start_process

    start_process(run, choose_device("cpu"))
    groups = [
        torch.distributed.group.WORLD,
        parallel_state.get_data_parallel_group(with_context_parallel=True),
        parallel_state.get_tensor_model_parallel_group(),
        parallel_state.get_pipeline_model_parallel_group(),
        parallel_state.get_model_parallel_group(),
        parallel_state.get_embedding_group(),
    ]
    timeouts: list[Any] = [group._get_backend(torch.device("cpu")).options._timeout for group in groups]
    return [timeout.total_seconds() for timeout in timeouts]


def test_collectives_time_out_after_the_watchdog_in_every_group() -> None:
    """The error of a collective names no rank, so the watchdog's must come first."""
    config = tiny_run("mlm", timeout_seconds=100.0, pipeline_model_parallel_size=2)
    for seconds in run_ranks(2, timeouts, config):
        assert seconds == [100.0 + COLLECTIVE_GRACE_SECONDS] * 6
