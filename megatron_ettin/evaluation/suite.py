"""The interface of an evaluation suite: named tasks that every model is evaluated on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from megatron_ettin.evaluation.models.subject import Subject
from megatron_ettin.evaluation.results import TaskResult


@dataclass(frozen=True)
class SuiteOptions:
    """Command-line options common to all suites; ``extra`` contains each suite's own flags."""

    data: Path | None
    """Folder of local data with one subfolder per suite; without it, tasks come from the Hub by name."""
    tasks: Sequence[str] = ()
    """Tasks to run; if empty, the suite's default tasks."""
    seeds: Sequence[int] = (1, 2, 3)
    batch_size: int = 32
    device: str = "cpu"
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Values of suite flags by name: ``retrieval_epochs`` for ``--retrieval-epochs``."""

    def flags_of(self, suite: str) -> dict[str, Any]:
        """Return the values of one suite's flags that are set, by name without the suite prefix."""
        prefix = f"{suite}_"
        flags = {name.removeprefix(prefix): value for name, value in self.extra.items() if name.startswith(prefix)}
        return {name: value for name, value in flags.items() if value is not None}


class PartCache(Protocol):
    """Completed parts of a task, cached on disk."""

    def get_or_compute(self, part: str, compute: Callable[[], Any]) -> Any:
        """Return the cached value of ``part``, or the result of ``compute``, which is JSON and cached."""


@dataclass(frozen=True)
class TaskRun:
    """The services that a task uses while it runs."""

    parts: PartCache
    progress: Callable[[str, int, int], None]
    """Called with the current activity, the units done and the total number of units."""
    folder: Path
    """Folder for artefacts that are not JSON, such as trained models (OUTPUT/NAME/trained/SUITE). It is kept and shared
    by all tasks of the suite, so names in it must identify everything that an artefact depends on."""


class Task(Protocol):
    """One task of a suite, with its data read and checked."""

    @property
    def name(self) -> str:
        """Unique in the suite and valid as a file name."""

    @property
    def is_local(self) -> bool:
        """Whether the data are local files, so that the name does not identify the content."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything besides the model that a result depends on, as JSON: data checksum, protocol, seeds."""

    def check(self, subject: Subject) -> None:
        """Raise ConfigError if this model cannot be evaluated on the task; called before the model is loaded."""

    def run(self, subject: Subject, run: TaskRun) -> TaskResult:
        """Evaluate a model on the task."""


class Suite(Protocol):
    """A collection of tasks with one evaluation method."""

    @property
    def name(self) -> str:
        """The name on the command line."""

    def add_flags(self, add: Callable[..., Any]) -> None:
        """Add the suite's own flags with ``argparse``'s ``add_argument``; each name starts with the suite's name."""

    def build_tasks(self, options: SuiteOptions) -> Sequence[Task]:
        """Read and check the data of all requested tasks.

        Raises:
            ConfigError: a file, column, label or task name is invalid, or the Hub cannot be reached.
        """
