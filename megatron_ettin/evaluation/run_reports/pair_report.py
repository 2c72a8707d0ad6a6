"""Report of a paired encoder and decoder: measurements and problems, as JSON and as a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from megatron_ettin.evaluation.run_reports.samples import Continuation, FilledMask

LEARNED_NATS = 0.3
"""A model has learned if its validation loss is at least this far below the unigram entropy."""

SAME_LOSS_NATS = 1e-3
"""Allowed difference of the validation losses of trained and released model, which sum equal fp32 losses in different
orders."""

SAME_LOGITS = 2e-5
"""Allowed difference of the released model's logits from the checkpoint's, relative to the largest logit
(at least 1), in fp32."""


@dataclass(frozen=True)
class ModelReport:
    """Measurements of one of the two models."""

    name: str
    """encoder or decoder."""
    objective: str
    run_folder: str
    released_folder: str
    parameters: int
    steps: int
    tokens: int
    """Training tokens."""
    first_loss: float
    last_loss: float
    validation_loss: float
    """Measured by the trainer after the last step."""
    released_validation_loss: float
    """Measured by transformers on the released model, over the same scored tokens."""
    scored_tokens: int
    """Of the validation split."""
    logit_difference: float
    """Relative difference of the released model's logits from the checkpoint's."""
    tokens_per_second: float
    sample: FilledMask | Continuation


@dataclass(frozen=True)
class PairReport:
    """Both models, and the reference that they are measured against."""

    validation_tokens: int
    unigram_entropy: float
    """Of the validation tokens, in nats."""
    models: tuple[ModelReport, ...]

    def problems(self) -> list[str]:
        """Return one line for each problem; none if both models have learned and were released as trained."""
        return [problem for model in self.models for problem in _problems(model, self.unigram_entropy)]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as nested dicts for JSON."""
        return {**asdict(self), "problems": self.problems()}

    def text(self) -> str:
        """Return a table with a column for each model, then the samples and the problems."""
        rows = list(_rows(self))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        table = "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        samples = (f"{model.name}: {model.sample}" for model in self.models)
        return "\n\n".join((table, *samples, *(f"error: {problem}" for problem in self.problems())))


def _problems(model: ModelReport, entropy: float) -> Iterator[str]:
    # The conditions are negated so that NaN is a problem too.
    if not model.validation_loss <= entropy - LEARNED_NATS:
        yield (
            f"{model.name}: validation loss {model.validation_loss:.3f} is not {LEARNED_NATS} nats below "
            f"the unigram entropy {entropy:.3f}"
        )
    if not abs(model.released_validation_loss - model.validation_loss) <= SAME_LOSS_NATS:
        yield (
            f"{model.name}: the released model's validation loss is {model.released_validation_loss:.5f}, "
            f"the trained one's {model.validation_loss:.5f}"
        )
    if not model.logit_difference <= SAME_LOGITS:
        yield f"{model.name}: the released model's logits differ by {model.logit_difference:.2g} of the largest"


def _rows(report: PairReport) -> Iterator[tuple[str, ...]]:
    models = report.models
    below = (f"{report.unigram_entropy - model.validation_loss:.3f}" for model in models)
    yield "", *(f"{model.name} ({model.objective})" for model in models)
    yield "parameters", *(f"{model.parameters:,}" for model in models)
    yield "steps", *(f"{model.steps:,}" for model in models)
    yield "tokens trained on", *(f"{model.tokens:,}" for model in models)
    yield "tokens/s", *(f"{model.tokens_per_second:,.0f}" for model in models)
    yield "training loss, first", *(f"{model.first_loss:.3f}" for model in models)
    yield "training loss, last", *(f"{model.last_loss:.3f}" for model in models)
    yield "validation loss", *(f"{model.validation_loss:.3f}" for model in models)
    yield "unigram entropy", *(f"{report.unigram_entropy:.3f}" for _ in models)
    yield "below it by (nats)", *below
    yield "released: validation loss", *(f"{model.released_validation_loss:.3f}" for model in models)
    yield "released: logit difference", *(f"{model.logit_difference:.1e}" for model in models)
    yield "checkpoints", *(model.run_folder for model in models)
    yield "Hugging Face", *(model.released_folder for model in models)
