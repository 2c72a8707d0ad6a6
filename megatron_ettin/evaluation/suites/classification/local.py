"""Labelled tasks from local files: DIR/classification/TASK/{train,validation,test}.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.suites.classification.data import (
    LabelledTask,
    PlacedLabel,
    Purposes,
    Split,
    Text,
    check_label,
    hold_out,
    infer_scheme,
)
from megatron_ettin.evaluation.task_data import Row, column_names, read_column, read_rows, read_text

TEXT_COLUMNS: Sequence[tuple[str, ...]] = (("text",), ("premise", "hypothesis"), ("sentence1", "sentence2"))
"""Accepted text columns; all lines of a file must have those of its first line."""
LABEL = "label"


@dataclass(frozen=True)
class _Lines:
    """The checked lines of one file."""

    texts: list[Text]
    labels: list[PlacedLabel]


def read_local_task(folder: Path, held_out_share: float) -> LabelledTask:
    """Read a task and assign its files to purposes.

    If test.jsonl exists it is reported, and validation.jsonl selects. If one of the two is missing, the other is
    reported, and held-out training items select.

    Raises:
        ConfigError: a file is missing or empty, or a line is invalid; the message names file and line.
    """
    paths = {name: folder / f"{name}.jsonl" for name in ("train", "validation", "test")}
    if not paths["train"].is_file():
        raise ConfigError(f"{folder}: has no train.jsonl")
    reported = next((name for name in ("test", "validation") if paths[name].is_file()), None)
    if reported is None:
        raise ConfigError(f"{folder}: has neither test.jsonl nor validation.jsonl to report on")
    files = {name: _read_lines(path) for name, path in paths.items() if path.is_file()}
    scheme = infer_scheme(files["train"].labels)
    splits = {name: Split(lines.texts, scheme.encode(lines.labels)) for name, lines in files.items()}
    train, origins = splits["train"], {"train": "train.jsonl", "reported": f"{reported}.jsonl"}
    if reported == "test" and "validation" in splits:
        choice, origins["choice"] = splits["validation"], "validation.jsonl"
    else:
        if len(train) < 2 * len(scheme.classes or "ab"):
            raise ConfigError(f"{paths['train']}: {len(train)} items are too few to hold some out for selection")
        train, choice = hold_out(train, held_out_share, is_regression=scheme.is_regression)
        origins["choice"] = "train.jsonl, a share held out"
    purposes = Purposes(train, choice, {"": splits[reported]}, origins)
    return LabelledTask(folder.name, scheme.classes, purposes, is_local=True)


def _read_lines(path: Path) -> _Lines:
    lines = _Lines([], [])
    columns: tuple[str, ...] | None = None
    for place, row in read_rows(path):
        columns = columns or _text_columns(row, place)
        lines.texts.append(tuple(read_text(row, column, place) for column in columns))
        lines.labels.append(PlacedLabel(check_label(read_column(row, LABEL, place), place), place))
    return lines


def _text_columns(row: Row, place: str) -> tuple[str, ...]:
    """Return the first accepted set of text columns that a row has."""
    for columns in TEXT_COLUMNS:
        if all(column in row for column in columns):
            return columns
    for columns in TEXT_COLUMNS:
        if present := [column for column in columns if column in row]:  # one text of a pair
            missing = next(column for column in columns if column not in row)
            raise ConfigError(f"{place}: has {present[0]!r} but no {missing!r}, only {column_names(row)}")
    forms = " or ".join(" and ".join(columns) for columns in TEXT_COLUMNS)
    raise ConfigError(f"{place}: needs {forms}; it has {column_names(row)}")
