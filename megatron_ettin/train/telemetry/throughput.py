"""Throughput: tokens and model FLOPs per second, MFU and the share of time spent waiting for data."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ettin.train.step import Sums
from megatron_ettin.train.telemetry.metrics import Record


@dataclass
class Throughput:
    """Sums over the steps since the last written record."""

    peak_flops_per_second: float
    """Of the devices of all ranks together."""
    tokens: int = 0
    flops: int = 0
    seconds: float = 0.0
    waited_seconds: float = 0.0

    def add(self, sums: Sums, seconds: float, waited_seconds: float) -> None:
        """Count a step.

        Args:
            sums: its totals.
            seconds: its duration, including the wait for its batches.
            waited_seconds: the wait for its batches.
        """
        self.tokens += sums.real_tokens
        self.flops += sums.model_flops
        self.seconds += seconds
        self.waited_seconds += waited_seconds

    def figures(self) -> Record:
        """Return the means over these steps; MFU is model FLOPs per second over the peak."""
        seconds = max(self.seconds, 1e-9)
        rate = self.flops / seconds
        return {
            "tokens_per_second": round(self.tokens / seconds, 1),
            "model_flops_per_second": round(rate),
            "mfu": round(rate / self.peak_flops_per_second, 4),
            "data_wait_share": round(self.waited_seconds / seconds, 4),
        }

    def reset(self) -> None:
        """Start the next record."""
        self.tokens, self.flops, self.seconds, self.waited_seconds = 0, 0, 0.0, 0.0
