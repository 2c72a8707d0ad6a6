"""The GLUE tasks of the Hub by name, with the metrics of the GLUE leaderboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megatron_ettin.cli import suggestion
from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.suites.classification.data import LabelledTask, Purposes, Split, hold_out
from megatron_ettin.evaluation.task_data import ask_hub

DATASET = "nyu-mll/glue"


@dataclass(frozen=True)
class GlueTask:
    """Columns, metrics and reported splits of a task."""

    columns: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    """The first is the primary metric."""
    reported: Mapping[str, str] | None = None
    """Reported splits by suffix of the metric names; by default the validation split."""


GLUE: Mapping[str, GlueTask] = {
    "cola": GlueTask(("sentence",), ("matthews", "accuracy")),
    "sst2": GlueTask(("sentence",)),
    "mrpc": GlueTask(("sentence1", "sentence2"), ("f1", "accuracy")),
    "qqp": GlueTask(("question1", "question2"), ("f1", "accuracy")),
    "stsb": GlueTask(("sentence1", "sentence2"), ("spearman", "pearson")),
    "mnli": GlueTask(
        ("premise", "hypothesis"), reported={"": "validation_matched", "mismatched": "validation_mismatched"}
    ),
    "qnli": GlueTask(("question", "sentence")),
    "rte": GlueTask(("sentence1", "sentence2")),
    "wnli": GlueTask(("sentence1", "sentence2")),
}
NOT_BY_DEFAULT = ("wnli",)
"""Excluded unless requested, as in most papers: its training and validation splits contradict each other."""


def check_names(names: Sequence[str]) -> list[str]:
    """Return the given task names, or the eight default ones.

    Raises:
        ConfigError: a name is not a GLUE task.
    """
    for name in names:
        if name not in GLUE:
            known = ", ".join(GLUE)
            rule = "is not a GLUE task"
            raise ConfigError(f"--tasks {name}: {rule} ({known}){suggestion(name, GLUE)}; files are given by --data")
    return list(names) or [name for name in GLUE if name not in NOT_BY_DEFAULT]


def load_glue_task(name: str, held_out_share: float) -> LabelledTask:
    """Load a task from the Hub or from its local cache.

    GLUE's test labels are not public: the validation split is reported, and held-out training items select.

    Raises:
        ConfigError: the Hub cannot be reached.
    """
    import datasets

    splits = ask_hub(lambda: datasets.load_dataset(DATASET, name), f"--tasks {name}: {DATASET}")
    task = GLUE[name]
    feature = splits["train"].features["label"]
    classes: Sequence[str] | None = getattr(feature, "names", None)
    train, choice = hold_out(_split(splits["train"], task, classes), held_out_share, is_regression=classes is None)
    split_names = task.reported or {"": "validation"}
    reported = {suffix: _split(splits[split], task, classes) for suffix, split in split_names.items()}
    origins = {"train": "train", "choice": "train, a share held out", "reported": ", ".join(split_names.values())}
    return LabelledTask(name, classes, Purposes(train, choice, reported, origins))


def _split(rows: Any, task: GlueTask, classes: Sequence[str] | None) -> Split:
    texts = list(zip(*(rows[column] for column in task.columns), strict=True))
    labels = list(rows["label"])
    return Split(texts, np.array(labels, dtype=np.float64) if classes is None else np.array(labels, dtype=np.int64))
