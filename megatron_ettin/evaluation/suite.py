"""What a suite is: named tasks that one model after the other is put to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from megatron_ettin.evaluation.models.subject import Subject
from megatron_ettin.evaluation.results import TaskResult


@dataclass(frozen=True)
class SuiteOptions:
    """What the command line gave to all suites; each has options of its own beside it."""

    data: Path | None
    """Folder of local data, one sub-folder a suite; without it tasks come from the hub by name."""
    tasks: Sequence[str] = ()
    """Only these; empty takes the suite's own choice."""
    seeds: Sequence[int] = (1, 2, 3)
    batch_size: int = 32
    device: str = "cpu"
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Values of the flags that suites added, by name: ``retrieval_epochs`` of ``--retrieval-epochs``."""

    def own(self, suite: str) -> dict[str, Any]:
        """Return the values of one suite's flags that are set, by name without the suite's."""
        start = f"{suite}_"
        given = {name.removeprefix(start): value for name, value in self.extra.items() if name.startswith(start)}
        return {name: value for name, value in given.items() if value is not None}


class PartMemory(Protocol):
    """Finished parts of a task, kept on disk so that they are not computed again."""

    def recall(self, part: str, compute: Callable[[], Any]) -> Any:
        """Return what ``compute`` returned when ``part`` was first asked for; it must be JSON."""


@dataclass(frozen=True)
class TaskRun:
    """What a task is handed when it runs."""

    memory: PartMemory
    progress: Callable[[str, int, int], None]
    """Called with what is being done, how much of it is done, and of how much."""
    folder: Path
    """For what is no JSON, such as trained models (OUTPUT/NAME/trained/SUITE). It is kept, and a suite's tasks share
    it, so whoever writes there names things by all that they depend on."""


class Task(Protocol):
    """One task of a suite, its data found and checked."""

    @property
    def name(self) -> str:
        """Unique in the suite, fit for a file's name."""

    @property
    def is_local(self) -> bool:
        """Whether its data are the user's files: then its name says nothing of what is in them."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything a result depends on beside the model: data (with a checksum), protocol, seeds. It must be JSON."""

    def check(self, subject: Subject) -> None:
        """Raise ConfigError when this model cannot be put to the task, before it is loaded."""

    def run(self, subject: Subject, run: TaskRun) -> TaskResult:
        """Put a model to the task."""


class Suite(Protocol):
    """A kind of evaluation."""

    @property
    def name(self) -> str:
        """As on the command line."""

    def add_flags(self, add: Callable[..., Any]) -> None:
        """Add the suite's own flags with ``argparse``'s ``add_argument``; each begins with the suite's name."""

    def build_tasks(self, options: SuiteOptions) -> Sequence[Task]:
        """Find and check the data of all tasks.

        Raises:
            ConfigError: a file, column, label or task name is wrong, or the hub cannot be reached.
        """
