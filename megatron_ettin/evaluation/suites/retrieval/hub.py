"""Retrieval data of the Hub: triplets to train on, and the tasks of mteb by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from megatron_ettin.cli import positive, suggestion
from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.suites.retrieval.pairs import HELD_OUT_SEED, Retrieval
from megatron_ettin.evaluation.task_data import ask_hub

TRAIN_DATA = "sentence-transformers/msmarco-co-condenser-margin-mse-sym-mnrl-mean-v1:triplet-hard"
TRAIN_ROWS = 1_250_000
DEFAULT_TASKS = ("MSMARCO",)
"""Its dev split is reported in the paper's Figure 1."""
QUERY_COLUMNS = ("query", "anchor")
POSITIVE = "positive"


@dataclass(frozen=True)
class HubTraining:
    """A data set of the Hub with columns for queries, positives and, optionally, negatives."""

    given: str
    """NAME or NAME:SUBSET."""
    num_rows: int
    """Maximum number of training rows, after some are held out."""
    num_held_out: int
    batch_pairs: int

    @property
    def checksum(self) -> str:
        """The revision of the data set and the rows used."""
        return f"{self.given}@{self._builder.hash}, {self.num_rows} rows, {self.num_held_out} held out"

    def check(self) -> None:
        """Check the data set without downloading its rows.

        Raises:
            ConfigError: the data set or subset does not exist, lacks a column, or the Hub cannot be reached.
        """
        self._check_rows(self.num_rows, f"--retrieval-train-rows {self.num_rows}")
        columns = self._builder.info.features
        if columns is not None:
            self._text_columns(list(columns))

    def load_train(self) -> Any:
        """Return a ``datasets.Dataset`` with columns query, positive and negatives."""
        train = self._splits["train"]
        return train.select(range(min(self.num_rows, len(train))))

    def load_held_out(self) -> Retrieval:
        """Return the data that select the learning rate; the documents include the negatives of all queries."""
        rows = self._splits["test"]
        query, positive, *negatives = rows.column_names
        distractors = [text for column in negatives for text in rows[column]]
        return Retrieval.of_pairs(zip(rows[query], rows[positive], strict=True), distractors)

    @property
    def _name_and_subset(self) -> tuple[str, str | None]:
        name, _, subset = self.given.partition(":")
        return name, subset or None

    @property
    def _flag(self) -> str:
        return f"--retrieval-train-data {self.given}"

    @cached_property
    def _builder(self) -> Any:
        import datasets

        return ask_hub(lambda: datasets.load_dataset_builder(*self._name_and_subset), f"{self._flag}:")

    @cached_property
    def _splits(self) -> Any:
        import datasets

        rows = ask_hub(lambda: datasets.load_dataset(*self._name_and_subset, split="train"), f"{self._flag}:")
        rows = rows.select_columns(self._text_columns(rows.column_names))
        self._check_rows(
            len(rows) - self.num_held_out, f"{self._flag} has {len(rows)} rows, {self.num_held_out} held out"
        )
        return rows.train_test_split(test_size=self.num_held_out, seed=HELD_OUT_SEED)

    def _check_rows(self, num_rows: int, what: str) -> None:
        if num_rows < self.batch_pairs:
            raise ConfigError(f"{what}: must be at least --retrieval-batch-pairs, {self.batch_pairs}")

    def _text_columns(self, columns: Sequence[str]) -> list[str]:
        """Return the text columns in the order that the loss expects."""
        query = next((name for name in QUERY_COLUMNS if name in columns), None)
        if query is None or POSITIVE not in columns:
            missing = " or ".join(QUERY_COLUMNS) if query is None else POSITIVE
            raise ConfigError(f"{self._flag}: has no column {missing}, only {', '.join(columns)}")
        return [query, POSITIVE, *(name for name in columns if name.startswith("negative"))]


def add_flags(add: Callable[..., Any]) -> None:
    """Add the flags of the training data with ``argparse``'s ``add_argument``."""
    add(
        "--retrieval-train-data", metavar="NAME[:SUBSET]", default=TRAIN_DATA,
        help="data set of the Hub to train on, unless there are local pairs",
    )  # fmt: skip
    add(
        "--retrieval-train-rows", type=positive, metavar="N", default=TRAIN_ROWS,
        help="maximum number of rows of it to train on",
    )  # fmt: skip


def find_mteb_tasks(names: Sequence[str]) -> list[Any]:
    """Return the tasks of mteb with these names; the name of a benchmark selects all its tasks.

    Raises:
        ConfigError: mteb does not know a name, or the data of a task are not on the Hub.
    """
    import mteb

    benchmarks = {benchmark.name: benchmark for benchmark in mteb.get_benchmarks()}
    tasks: dict[str, Any] = {}
    for name in names or DEFAULT_TASKS:
        for task in benchmarks[name].tasks if name in benchmarks else [_find_task(name, list(benchmarks))]:
            tasks.setdefault(task.metadata.name, task)
    for name, task in tasks.items():
        _check_data(name, task)
    return list(tasks.values())


def _find_task(name: str, benchmarks: Sequence[str]) -> Any:
    import mteb

    try:
        return mteb.get_task(name)
    except KeyError:
        known = [*(task.metadata.name for task in mteb.get_tasks(exclude_superseded=False)), *benchmarks]
        rule = "mteb has no task or benchmark of this name"
        raise ConfigError(f"--tasks {name}: {rule}{suggestion(name, known)}; files are given by --data") from None


def _check_data(name: str, task: Any) -> None:
    import datasets

    source = task.metadata.dataset
    if "path" in source:
        revision = source.get("revision")
        ask_hub(lambda: datasets.get_dataset_config_names(source["path"], revision=revision), f"--tasks {name}:")
