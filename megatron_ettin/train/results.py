"""What steps and evaluations return."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sums:
    """Totals over all micro-batches and data-parallel ranks."""

    loss_sum: float
    """Negative log-likelihood in nats."""
    scored_tokens: int
    correct_tokens: int
    real_tokens: int
    model_flops: int = 0
    """Operations of a training step by the objective's own count; 0 of an evaluation."""

    @property
    def loss(self) -> float:
        """Mean loss per scored token."""
        return self.loss_sum / max(1, self.scored_tokens)

    @property
    def accuracy(self) -> float:
        """Share of scored tokens whose label is the most likely token."""
        return self.correct_tokens / max(1, self.scored_tokens)

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.loss_sum + other.loss_sum,
            self.scored_tokens + other.scored_tokens,
            self.correct_tokens + other.correct_tokens,
            self.real_tokens + other.real_tokens,
            self.model_flops + other.model_flops,
        )


@dataclass(frozen=True)
class StepResult:
    """What one step did."""

    sums: Sums
    gradient_norm: float
    applied: bool
    """Whether the weights moved: not where a loss or gradient is not finite, nor where the step was not allowed."""
    finite: bool = True
    """Whether loss and gradients are, on all ranks."""
    votes: tuple[bool, ...] = ()
    """What any rank voted for."""
