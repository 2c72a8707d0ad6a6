"""Labelled tasks from files: DIR/classification/TASK/{train,validation,test}.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.suites.classification.data import (
    GivenLabel,
    LabelledTask,
    LabelScheme,
    Purposes,
    Split,
    Text,
    check_label,
    hold_out,
    read_scheme,
)
from megatron_ettin.evaluation.task_data import Row, named_columns, read_rows, read_text

TEXT_COLUMNS: Sequence[tuple[str, ...]] = (("text",), ("premise", "hypothesis"), ("sentence1", "sentence2"))
"""What an item may be made of; the first that the first line has is asked of all lines."""
LABEL = "label"


@dataclass(frozen=True)
class _Lines:
    """One file, read and checked."""

    texts: list[Text]
    labels: list[GivenLabel]


def read_local_task(folder: Path, held_out_share: float) -> LabelledTask:
    """Read a task and say which items serve for what.

    Where there is test.jsonl, it is reported and validation.jsonl chooses. Where one of them is missing, the other is
    reported, and a share of the training items chooses.

    Raises:
        ConfigError: a file is missing or empty, or a line is wrong; the message names file and line.
    """
    paths = {name: folder / f"{name}.jsonl" for name in ("train", "validation", "test")}
    if not paths["train"].is_file():
        raise ConfigError(f"{folder}: has no train.jsonl")
    reported = next((name for name in ("test", "validation") if paths[name].is_file()), None)
    if reported is None:
        raise ConfigError(f"{folder}: has neither test.jsonl nor validation.jsonl to report on")
    lines = {name: _read_lines(path) for name, path in paths.items() if path.is_file()}
    scheme = read_scheme(lines["train"].labels)
    splits = {name: _numbered(read, scheme) for name, read in lines.items()}
    train, origins = splits["train"], {"train": "train.jsonl", "reported": f"{reported}.jsonl"}
    if reported == "test" and "validation" in splits:
        choice, origins["choice"] = splits["validation"], "validation.jsonl"
    else:
        if len(train) < 2 * len(scheme.classes or "ab"):
            raise ConfigError(f"{paths['train']}: {len(train)} items are too few to hold some out to choose on")
        train, choice = hold_out(train, held_out_share, is_regression=scheme.is_regression)
        origins["choice"] = "train.jsonl, a share held out"
    purposes = Purposes(train, choice, {"": splits[reported]}, origins)
    return LabelledTask(folder.name, scheme.classes, purposes, is_local=True)


def _read_lines(path: Path) -> _Lines:
    texts: list[Text] = []
    labels: list[GivenLabel] = []
    columns: tuple[str, ...] | None = None
    for place, row in read_rows(path):
        columns = columns or _columns_of(row, place)
        texts.append(tuple(read_text(row, column, place) for column in columns))
        if LABEL not in row:
            raise ConfigError(f"{place}: has no {LABEL!r}, only {named_columns(row)}")
        labels.append(GivenLabel(check_label(row[LABEL], place), place))
    if not texts:
        raise ConfigError(f"{path}: is empty")
    return _Lines(texts, labels)


def _columns_of(row: Row, place: str) -> tuple[str, ...]:
    for columns in TEXT_COLUMNS:
        if all(column in row for column in columns):
            return columns
    for columns in TEXT_COLUMNS:  # half of a pair
        for column in columns:
            if any(other in row for other in columns):
                missing = next(name for name in columns if name not in row)
                raise ConfigError(f"{place}: has no {missing!r}, only {named_columns(row)} beside {column!r}")
    forms = " or ".join(" and ".join(columns) for columns in TEXT_COLUMNS)
    raise ConfigError(f"{place}: needs {forms}; it has {named_columns(row)}")


def _numbered(lines: _Lines, scheme: LabelScheme) -> Split:
    return Split(lines.texts, scheme.number(lines.labels))
