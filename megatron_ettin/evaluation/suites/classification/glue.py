"""GLUE's tasks from the hub, by the names they have there, with the metrics of their leaderboard."""

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
    """What a task's columns are called, and how it is scored."""

    columns: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    """The first stands for the task."""
    reported: Mapping[str, str] | None = None
    """The splits reported on by the name of their figures; the validation split where there is none."""


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
ASKED_BY_NAME = ("wnli",)
"""Left out unless named: its splits contradict each other, and papers leave it out too."""


def check_names(wanted: Sequence[str]) -> list[str]:
    """Return the names of the tasks wanted, or of the usual eight.

    Raises:
        ConfigError: a name is not GLUE's.
    """
    for name in wanted:
        if name not in GLUE:
            known = ", ".join(GLUE)
            rule = "is none of GLUE's tasks"
            raise ConfigError(f"--tasks {name}: {rule} ({known}){suggestion(name, GLUE)}; files are given by --data")
    return list(wanted) or [name for name in GLUE if name not in ASKED_BY_NAME]


def load_glue_task(name: str, held_out_share: float) -> LabelledTask:
    """Load a task from the hub, or from the local cache of an earlier time.

    The labels of GLUE's test splits are not public: validation is reported, and a share of the training items chooses.

    Raises:
        ConfigError: the hub cannot be reached.
    """
    splits = _load(name)
    task = GLUE[name]
    feature = splits["train"].features["label"]
    classes: Sequence[str] | None = getattr(feature, "names", None)
    train, choice = hold_out(_split(splits["train"], task, classes), held_out_share, is_regression=classes is None)
    names = task.reported or {"": "validation"}
    reported = {figure: _split(splits[split], task, classes) for figure, split in names.items()}
    origins = {"train": "train", "choice": "train, a share held out", "reported": ", ".join(names.values())}
    return LabelledTask(name, classes, Purposes(train, choice, reported, origins))


def _load(name: str) -> Any:
    import datasets

    return ask_hub(
        lambda: datasets.load_dataset(DATASET, name),
        lambda reason: (
            f"--tasks {name}: {DATASET} cannot be loaded from the hub ({reason}); local tasks are given by --data"
        ),
    )


def _split(rows: Any, task: GlueTask, classes: Sequence[str] | None) -> Split:
    texts = list(zip(*(rows[column] for column in task.columns), strict=True))
    labels = list(rows["label"])
    return Split(texts, np.array(labels, dtype=np.float64) if classes is None else np.array(labels, dtype=np.int64))
