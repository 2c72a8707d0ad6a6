"""A run's figures as its metrics.jsonl has them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_ettin.checkpoint.layout import METRICS_FILE

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
