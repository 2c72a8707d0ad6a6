"""Throughput figures against arithmetic by hand."""

from __future__ import annotations

from megatron_ettin.train.step import Sums
from megatron_ettin.train.telemetry.throughput import Throughput


def totals(tokens: int, flops: int) -> Sums:
    return Sums(loss_sum=1.0, scored_tokens=1, correct_tokens=0, real_tokens=tokens, model_flops=flops)


def test_figures_are_means_over_the_steps_since_the_last_record() -> None:
    throughput = Throughput(peak_flops_per_second=4e9)
    throughput.add(totals(100, 2_000_000_000), seconds=1.0, waited_seconds=0.5)
    throughput.add(totals(300, 4_000_000_000), seconds=3.0, waited_seconds=0.1)
    assert throughput.figures() == {
        "tokens_per_second": 100.0,
        "model_flops_per_second": 1_500_000_000,
        "mfu": 0.375,
        "data_wait_share": 0.15,
    }
    throughput.reset()
    throughput.add(totals(10, 1_000_000_000), seconds=0.5, waited_seconds=0.0)
    assert throughput.figures()["tokens_per_second"] == 20.0
    assert throughput.figures()["mfu"] == 0.5
