"""Task results: metrics with confidence intervals, per-item scores and the settings they depend on.

The results of one model are stored in one folder:

    OUTPUT/NAME/model.json             description of the model (``Subject.as_dict``)
    OUTPUT/NAME/SUITE.json             the model and, by task, settings, versions, metrics, details and ``local``
    OUTPUT/NAME/items/SUITE/TASK.json  per-item scores by metric, for paired comparisons
    OUTPUT/NAME/parts/SUITE/TASK/      completed parts of an unfinished task
    OUTPUT/NAME/trained/SUITE/         models that a suite trained and may reuse
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_ettin.errors import ConfigError

MODEL_FILE = "model.json"
ITEMS_FOLDER = "items"
PARTS_FOLDER = "parts"
TRAINED_FOLDER = "trained"
LOCAL = "local"
"""Key of a task in SUITE.json: whether the task used local data files."""


@dataclass(frozen=True)
class Measure:
    """A value with its 95% confidence interval. An undefined number is NaN, and null in JSON."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class TaskResult:
    """The result of one model on one task."""

    metrics: Mapping[str, Measure]
    """By name, each in its own unit: proportions from 0 to 1, correlations from -1 to 1, losses in nats."""
    main: str
    """Name of the primary metric, shown in tables and figures."""
    items: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By metric, the score of every item, in the same order for all models. The metric is their mean; metrics that are
    not means (correlations, F1) have no item scores."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further information as JSON, such as the selected learning rate, the scores by seed or by subgroup."""

    @property
    def main_measure(self) -> Measure:
        """The primary metric."""
        return self.metrics[self.main]

    def summary(self) -> dict[str, Any]:
        """Return everything but the item scores, as JSON."""
        metrics = {name: {key: _or_null(value) for key, value in vars(m).items()} for name, m in self.metrics.items()}
        return {"main": self.main, "metrics": metrics, "details": self.details}

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any], items: Mapping[str, Sequence[float]]) -> TaskResult:
        """Invert ``summary``."""
        metrics = {
            name: Measure(**{key: _or_nan(bound) for key, bound in measure.items()})
            for name, measure in summary["metrics"].items()
        }
        return cls(metrics, summary["main"], items, summary["details"])


@dataclass(frozen=True)
class ModelResults:
    """All results of one model."""

    name: str
    model: Mapping[str, Any]
    """The output of ``Subject.as_dict``."""
    suites: Mapping[str, Mapping[str, TaskResult]]
    """By suite and task; finished tasks only."""
    settings: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    """By suite and task, everything besides the model that a result depends on. Results whose settings differ are not
    comparable."""
    local: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By suite, the tasks that used local data files. A result that does not record this counts as local: the name of a
    task does not identify its data."""


def read_results(output: Path) -> list[ModelResults]:
    """Read the results of all models from the output folder of ``tools/evaluate.py``, sorted by name.

    Raises:
        ConfigError: there are no results, or a file is damaged.
    """
    results = [read_model(path.parent) for path in sorted(output.glob(f"*/{MODEL_FILE}"))]
    if not results:
        raise ConfigError(f"{output} has no results: there is no */{MODEL_FILE} in it")
    return results


def read_model(folder: Path) -> ModelResults:
    """Read the results of one model.

    Raises:
        ConfigError: a file is damaged.
    """
    paths = [path for path in sorted(folder.glob("*.json")) if path.name != MODEL_FILE]
    suites: dict[str, dict[str, TaskResult]] = {}
    settings: dict[str, dict[str, Mapping[str, Any]]] = {}
    local: dict[str, frozenset[str]] = {}
    for path in paths:
        content = read_json(path)
        try:
            tasks = sorted(content.get("tasks", {}).items())
            suites[path.stem] = {
                name: TaskResult.from_summary(task, read_items(folder, path.stem, name)) for name, task in tasks
            }
            settings[path.stem] = {name: task["settings"] for name, task in tasks}
            local[path.stem] = frozenset(name for name, task in tasks if task.get(LOCAL, True))
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} is damaged: {type(error).__name__} {error}") from error
    return ModelResults(folder.name, read_json(folder / MODEL_FILE), suites, settings, local)


def read_items(folder: Path, suite: str, task: str) -> dict[str, list[float]]:
    """Return the item scores of a task by metric, or {} if it has none."""
    path = folder / ITEMS_FOLDER / suite / f"{task}.json"
    if not path.is_file():
        return {}
    return {metric: [_or_nan(score) for score in scores] for metric, scores in read_json(path).items()}


def items_as_json(result: TaskResult) -> dict[str, list[float | None]]:
    """Return the item scores as they are stored on disk."""
    return {metric: [_or_null(score) for score in scores] for metric, scores in result.items.items()}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ConfigError: the file does not contain a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is damaged: it is not a JSON object")
    return content


def _or_null(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None


def _or_nan(number: float | None) -> float:
    return math.nan if number is None else number
