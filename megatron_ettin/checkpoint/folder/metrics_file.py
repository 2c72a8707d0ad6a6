"""A run's figures as its metrics.jsonl has them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.checkpoint.folder.layout import METRICS_FILE

Record = Mapping[str, float]
"""One line."""


def read_metrics(save: Path) -> tuple[Record, ...]:
    """Return the records of a run's folder by step; () where it has none. Lines that a kill cut short are left out."""
    try:
        lines = (save / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    parsed = (_parse(line) for line in lines)
    return tuple(sorted((record for record in parsed if record is not None), key=lambda record: record["step"]))


def metrics_at(records: Sequence[Record], step: int) -> Record:
    """Return each figure's latest value up to and including ``step``; a validation is not part of every record."""
    known: dict[str, float] = {}
    for record in records:
        if record["step"] <= step:
            known.update(record)
    return known


def _parse(line: str) -> Record | None:
    try:
        record: Any = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        return None
    return {name: value for name, value in record.items() if value is not None}


@dataclass(frozen=True)
class LossPoint:
    """A loss and when it was measured."""

    step: int
    tokens: int
    """Tokens trained on until then."""
    loss: float
    """Nats a scored token."""


@dataclass(frozen=True)
class LossCurve:
    """What one run's metrics say, in the order of steps."""

    training: tuple[LossPoint, ...]
    validation: tuple[LossPoint, ...]
    tokens_per_second: float
    """The median over the run."""


def read_loss_curve(metrics: Path) -> LossCurve:
    """Read a metrics file, one JSON object a line. A step that a resumed run took again counts as taken last.

    The last line may have been cut short by a kill, and is then left out.

    Raises:
        ValueError: the file holds no training loss, or another line is no record of a step.
    """
    training: dict[int, LossPoint] = {}
    validation: dict[int, LossPoint] = {}
    speed: dict[int, float] = {}
    lines = metrics.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            told = json.loads(line)
            step, tokens = told["step"], told["tokens"]
            if told.get("loss") is not None:  # a skipped step may have none
                training[step] = LossPoint(step, tokens, told["loss"])
                speed[step] = told["tokens_per_second"]
            if told.get("validation_loss") is not None:
                validation[step] = LossPoint(step, tokens, told["validation_loss"])
        except (ValueError, KeyError, TypeError, AttributeError):
            if number < len(lines):
                raise ValueError(f"line {number} of {metrics} is no record of a step") from None
    if not training:
        raise ValueError(f"{metrics} holds no training loss")
    return LossCurve(_in_order(training), _in_order(validation), statistics.median(speed.values()))


def _in_order(points: dict[int, LossPoint]) -> tuple[LossPoint, ...]:
    return tuple(points[step] for step in sorted(points))
