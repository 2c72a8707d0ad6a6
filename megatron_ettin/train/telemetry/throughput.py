"""How fast steps are made: tokens and operations a second, and how long they wait for data."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ettin.train.step import Sums
from megatron_ettin.train.telemetry.metrics import Record


@dataclass
class Pace:
    """Sums over the steps since the last record that was written."""

    peak_flops_per_second: float
    """What all ranks' devices can do at best together."""
    tokens: int = 0
    flops: int = 0
    seconds: float = 0.0
    waited_seconds: float = 0.0

    def add(self, sums: Sums, seconds: float, waited_seconds: float) -> None:
        """Count a step.

        Args:
            sums: its totals.
            seconds: from asking for its batches to its end.
            waited_seconds: of these, until the batches were there.
        """
        self.tokens += sums.real_tokens
        self.flops += sums.model_flops
        self.seconds += seconds
        self.waited_seconds += waited_seconds

    def figures(self) -> Record:
        """Return the means over these steps; MFU is the share of the peak that went into the model's work."""
        seconds = max(self.seconds, 1e-9)
        rate = self.flops / seconds
        return {
            "tokens_per_second": round(self.tokens / seconds, 1),
            "model_flops_per_second": round(rate),
            "mfu": round(rate / self.peak_flops_per_second, 4),
            "data_wait_share": round(self.waited_seconds / seconds, 4),
        }

    def start_over(self) -> None:
        """Forget these steps."""
        self.tokens, self.flops, self.seconds, self.waited_seconds = 0, 0, 0.0, 0.0
