"""Local files of choices, ``DIR/generative/TASK.jsonl`` or ``.jsonl.gz``, as tasks of the harness.

Two formats, recognised by their columns:

    sentence_good, sentence_bad; optionally field, linguistics_term or term, uid    minimal pairs, as in BLiMP
    goal, sol1, sol2, label (0 or 1: the index of the correct solution)             choices, as in PIQA
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.task_data import Row, column_names, read_column, read_rows, read_text

FOLDER = "generative"
_ENDINGS = (".jsonl", ".jsonl.gz")
_PAIR_COLUMNS = ("sentence_good", "sentence_bad")
_CHOICE_COLUMNS = ("goal", "sol1", "sol2", "label")
_GROUP_COLUMNS = ("field", "linguistics_term", "term", "uid")


@dataclass(frozen=True)
class LocalTask:
    """A file that is read and checked."""

    name: str
    rows: Sequence[Row]
    checksum: str
    """SHA-256 of the file."""
    group_columns: Sequence[str]
    """Columns present in all rows by which results are reported separately."""


def find_local_tasks(data: Path) -> dict[str, Path]:
    """Return the files of DIR/generative by task name.

    Raises:
        ConfigError: the folder is missing or has no files, or two files have the same task name.
    """
    folder = data / FOLDER
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*")):
        ending = next((ending for ending in reversed(_ENDINGS) if path.name.endswith(ending)), None)
        if ending is None:
            continue
        name = path.name.removesuffix(ending)
        if name in files:
            raise ConfigError(f"--data {data}: {files[name]} and {path} are both {name}; keep one")
        files[name] = path
    if not files:
        raise ConfigError(f"--data {data}: there is no {folder}/TASK.jsonl or TASK.jsonl.gz")
    return files


def read_local_task(name: str, path: Path) -> LocalTask:
    """Read a file and check every line.

    Raises:
        ConfigError: the file is empty or a line is invalid; the message names file, line and column.
    """
    placed = list(read_rows(path))
    columns = _columns_of(placed[0][1], path)
    for place, row in placed:
        _check(row, columns, place)
    rows = [row for _, row in placed]
    groups = [column for column in _GROUP_COLUMNS if all(isinstance(row.get(column), str) for row in rows)]
    kept = [{column: row[column] for column in (*columns, *groups)} for row in rows]
    return LocalTask(name, kept, hashlib.sha256(path.read_bytes()).hexdigest(), groups)


def configure_local_task(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the harness configuration of a task over these rows, with the prompts of its own blimp and piqa."""
    import datasets

    common = {
        "task": name,
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list([dict(row) for row in rows])},
        "test_split": "test",
        "output_type": "multiple_choice",
        "num_fewshot": 0,
    }
    acc = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
    if _PAIR_COLUMNS[0] in rows[0]:
        return {
            **common,
            "doc_to_text": "",
            "doc_to_target": 0,
            "doc_to_choice": lambda row: [row["sentence_good"], row["sentence_bad"]],
            "metric_list": [acc],
        }
    return {
        **common,
        "doc_to_text": lambda row: f"Question: {row['goal']}\nAnswer:",
        "doc_to_target": "label",
        "doc_to_choice": lambda row: [row["sol1"], row["sol2"]],
        "metric_list": [acc, {**acc, "metric": "acc_norm"}],
    }


def _columns_of(row: Row, path: Path) -> tuple[str, ...]:
    """Return the columns of the format of which the first line has more columns."""
    pair, choice = (sum(column in row for column in columns) for columns in (_PAIR_COLUMNS, _CHOICE_COLUMNS))
    if not pair and not choice:
        raise ConfigError(
            f"{path}: has {column_names(row)}; must have {', '.join(_PAIR_COLUMNS)} or {', '.join(_CHOICE_COLUMNS)}"
        )
    return _PAIR_COLUMNS if pair >= choice else _CHOICE_COLUMNS


def _check(row: Row, columns: Sequence[str], place: str) -> None:
    for column in columns:
        if column == "label":
            label = read_column(row, column, place)
            if type(label) is not int or label not in (0, 1):
                raise ConfigError(f"{place}: label must be 0 (sol1) or 1 (sol2), and is {json.dumps(label)[:40]}")
        elif not read_text(row, column, place).strip():
            raise ConfigError(f"{place}: {column} is empty")
