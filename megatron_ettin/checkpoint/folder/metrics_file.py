"""The records of a run's metrics.jsonl: reading them, the loss curve, and dropping later ones. Stdlib only."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.checkpoint.folder.layout import METRICS_FILE
from megatron_ettin.files import atomic_file

Record = Mapping[str, float]
"""One line: the figures of one step by name, without those that are null (not finite)."""


@dataclass(frozen=True)
class LossPoint:
    """A loss and when it was measured."""

    step: int
    tokens: int
    """Trained tokens up to this step."""
    loss: float
    """Nats per scored token."""


@dataclass(frozen=True)
class LossCurve:
    """The losses of one run, in the order of steps."""

    training: tuple[LossPoint, ...]
    validation: tuple[LossPoint, ...]
    tokens_per_second: float
    """The median over the run."""


def read_metrics(save: Path) -> tuple[Record, ...]:
    """Return the records of a run's folder by step, () if it has none; truncated lines are skipped."""
    try:
        lines = _read_lines(save / METRICS_FILE)
    except OSError:
        return ()
    return tuple(sorted((record for _, record in _valid_records(lines)), key=lambda record: record["step"]))


def metrics_at(records: Sequence[Record], step: int) -> Record:
    """Return the latest value of each figure up to and including ``step``; not every record has a validation loss."""
    latest: dict[str, float] = {}
    for record in records:
        if record["step"] <= step:
            latest.update(record)
    return latest


def read_loss_curve(metrics: Path) -> LossCurve:
    """Read a metrics file; of a step that a resumed run repeated, the last record counts.

    The last line may be truncated by a kill, and is then skipped.

    Raises:
        ValueError: the file has no training loss, or another line is not the record of a step.
    """
    training: dict[int, LossPoint] = {}
    validation: dict[int, LossPoint] = {}
    speed: dict[int, float] = {}
    lines = _read_lines(metrics)
    for number, line in enumerate(lines, 1):
        try:
            record = _parse(line)
            step, tokens = int(record["step"]), int(record["tokens"])
            if "loss" in record:  # a skipped step may have none
                training[step] = LossPoint(step, tokens, record["loss"])
                speed[step] = record["tokens_per_second"]
            if "validation_loss" in record:
                validation[step] = LossPoint(step, tokens, record["validation_loss"])
        except (ValueError, KeyError):
            if number < len(lines):
                raise ValueError(f"line {number} of {metrics} is not the record of a step") from None
    if not training:
        raise ValueError(f"{metrics} has no training loss")
    return LossCurve(_in_order(training), _in_order(validation), statistics.median(speed.values()))


def drop_records_from(metrics: Path, step: int) -> None:
    """Delete the records of ``step`` and later ones, and truncated lines, from a metrics file, if there is one."""
    if not metrics.exists():
        return
    lines = _read_lines(metrics)
    kept = [line for line, record in _valid_records(lines) if record["step"] < step]
    if len(kept) < len(lines):
        with atomic_file(metrics) as partial:
            partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _read_lines(metrics: Path) -> list[str]:
    return metrics.read_text(encoding="utf-8").splitlines()


def _valid_records(lines: Sequence[str]) -> Iterator[tuple[str, Record]]:
    for line in lines:
        with suppress(ValueError):
            yield line, _parse(line)


def _parse(line: str) -> Record:
    """Return the record of a line.

    Raises:
        ValueError: the line is not the record of a step.
    """
    record: Any = json.loads(line)
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        raise ValueError("a record is an object with a step")
    return {name: value for name, value in record.items() if value is not None}


def _in_order(points: dict[int, LossPoint]) -> tuple[LossPoint, ...]:
    return tuple(points[step] for step in sorted(points))
