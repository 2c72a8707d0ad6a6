"""The suite ``intrinsic``: validation losses as ``python -m megatron_ettin.pretrain --eval-only`` printed them.

Each DIR/intrinsic/MODELNAME/OBJECTIVE.json contains one such line. Nothing is computed here: the losses join the other
results of the model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from megatron_ettin.cli import suggestion
from megatron_ettin.config.objectives import RELEASED_OBJECTIVES
from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.models.subject import Subject
from megatron_ettin.evaluation.results import Measure, TaskResult, read_json
from megatron_ettin.evaluation.suite import SuiteOptions, TaskRun

_FILES = " and ".join(f"{name}.json" for name in RELEASED_OBJECTIVES)
_FIGURES = ("bits_per_byte", "validation_loss", "masked_accuracy", "perplexity")
"""In the order in which they stand for the task; bits per byte are not known of every tokenizer."""


@dataclass(frozen=True)
class LossTask:
    """The losses under one objective."""

    name: str
    """Of the objective."""
    folder: Path
    """DIR/intrinsic."""
    is_local: ClassVar[bool] = True

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """What all models' files say: one that changes makes all be read again."""
        total = hashlib.sha256()
        for path in sorted(self.folder.glob(f"*/{self.name}.json")):
            total.update(f"{path.parent.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        return {"data_checksum": total.hexdigest()}

    def check(self, subject: Subject) -> None:
        """Raise ConfigError where there is no such file of the model, or not of this objective."""
        self._read(subject)

    def run(self, subject: Subject, run: TaskRun) -> TaskResult:
        """Return what the file says; a sum over tokens has no items, so no interval is known."""
        told = self._read(subject)
        found = {name: told[name] for name in _FIGURES if told.get(name) is not None}
        metrics = {name: Measure(float(value), math.nan, math.nan) for name, value in found.items()}
        rest = {name: value for name, value in told.items() if name not in found}
        return TaskResult(metrics, next(iter(found)), details=rest)

    def _read(self, subject: Subject) -> dict[str, Any]:
        path = self.folder / subject.name / f"{self.name}.json"
        if not path.is_file():
            raise ConfigError(
                f"--data: there is no {path}, where the line belongs that --eval-only --objective {self.name} prints"
            )
        told = read_json(path)
        if told.get("objective") != self.name:
            raise ConfigError(f"{path}: objective is {told.get('objective')}, must be {self.name}")
        if not isinstance(told.get("validation_loss"), int | float):
            raise ConfigError(f"{path}: has no validation_loss")
        return told


class IntrinsicSuite:
    """Losses that were measured by the trainer."""

    name = "intrinsic"

    def add_flags(self, add: Callable[..., Any]) -> None:
        """Add none."""

    def build_tasks(self, options: SuiteOptions) -> Sequence[LossTask]:
        """Return a task for each objective that any model has a file of.

        Raises:
            ConfigError: there is no folder of such files, or a task is none of the objectives.
        """
        for name in options.tasks:
            if name not in RELEASED_OBJECTIVES:
                known = " and ".join(RELEASED_OBJECTIVES)
                raise ConfigError(
                    f"--tasks {name}: the intrinsic suite has {known}{suggestion(name, RELEASED_OBJECTIVES)}"
                )
        if options.data is None:
            raise ConfigError(f"--suite intrinsic: needs --data, with intrinsic/MODELNAME/{_FILES}")
        folder = options.data / self.name
        there = [name for name in RELEASED_OBJECTIVES if any(folder.glob(f"*/{name}.json"))]
        if not there:
            raise ConfigError(f"--data {options.data}: there is no {folder}/*/{_FILES.replace(' and ', ' or ')}")
        return [LossTask(name, folder) for name in options.tasks or there]


SUITE = IntrinsicSuite()
