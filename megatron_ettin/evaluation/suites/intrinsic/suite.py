"""The suite ``intrinsic``: validation losses as printed by ``python -m megatron_ettin.pretrain --eval-only``.

DIR/intrinsic/MODELNAME/OBJECTIVE.json contains one such line. The suite computes nothing: it adds the losses to the
other results of the model.
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

_FILES = " or ".join(f"{name}.json" for name in RELEASED_OBJECTIVES)
_METRICS = ("bits_per_byte", "validation_loss", "masked_accuracy", "perplexity")
"""The first one available is the primary metric; bits per byte are not known for every tokenizer."""


@dataclass(frozen=True)
class LossTask:
    """The losses under one objective."""

    name: str
    """The objective."""
    folder: Path
    """DIR/intrinsic."""
    is_local: ClassVar[bool] = True

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """A checksum over the files of all models: if one of them changes, all are read again."""
        total = hashlib.sha256()
        for path in sorted(self.folder.glob(f"*/{self.name}.json")):
            total.update(f"{path.parent.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        return {"data_checksum": total.hexdigest()}

    def check(self, subject: Subject) -> None:
        """Raise ConfigError if the model has no file of this objective."""
        self._read(subject)

    def run(self, subject: Subject, run: TaskRun) -> TaskResult:
        """Return the contents of the file; a sum over tokens has no item scores and no interval."""
        content = self._read(subject)
        values = {name: content[name] for name in _METRICS if content.get(name) is not None}
        metrics = {name: Measure(float(value), math.nan, math.nan) for name, value in values.items()}
        details = {name: value for name, value in content.items() if name not in values}
        return TaskResult(metrics, next(iter(values)), details=details)

    def _read(self, subject: Subject) -> dict[str, Any]:
        path = self.folder / subject.name / f"{self.name}.json"
        if not path.is_file():
            raise ConfigError(
                f"--data: there is no {path}; write the line to it that --eval-only --objective {self.name} prints"
            )
        content = read_json(path)
        if content.get("objective") != self.name:
            raise ConfigError(f"{path}: objective is {content.get('objective')}, must be {self.name}")
        if not isinstance(content.get("validation_loss"), int | float):
            raise ConfigError(f"{path}: has no validation_loss")
        return content


class IntrinsicSuite:
    """Losses measured by the trainer."""

    name = "intrinsic"

    def add_flags(self, add: Callable[..., Any]) -> None:
        """Add none."""

    def build_tasks(self, options: SuiteOptions) -> Sequence[LossTask]:
        """Return one task for each objective that any model has a file of.

        Raises:
            ConfigError: there is no folder with such files, or a task is not an objective.
        """
        for name in options.tasks:
            if name not in RELEASED_OBJECTIVES:
                known = " and ".join(RELEASED_OBJECTIVES) + suggestion(name, RELEASED_OBJECTIVES)
                raise ConfigError(f"--tasks {name}: the intrinsic suite has {known}")
        if options.data is None:
            raise ConfigError(f"--suite {self.name}: needs --data with {self.name}/MODELNAME/{_FILES}")
        folder = options.data / self.name
        available = [name for name in RELEASED_OBJECTIVES if any(folder.glob(f"*/{name}.json"))]
        if not available:
            raise ConfigError(f"--data {options.data}: there is no {folder}/*/{_FILES}")
        return [LossTask(name, folder) for name in options.tasks or available]


SUITE = IntrinsicSuite()
