"""What a task came to: metrics with confidence intervals, the score of every item, and what it depended on.

A model's results lie in one folder:

    OUTPUT/NAME/model.json             what the model is (``Subject.as_dict``)
    OUTPUT/NAME/SUITE.json             model, and by task: settings, versions, metrics, details, whether data were local
    OUTPUT/NAME/items/SUITE/TASK.json  the scores of single items by metric, for paired comparisons
    OUTPUT/NAME/parts/SUITE/TASK/      finished parts of a task that is not finished yet
    OUTPUT/NAME/trained/SUITE/         what a suite trained and may use again
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
"""Of a task in SUITE.json: whether its data were the user's own files."""


@dataclass(frozen=True)
class Measure:
    """One figure, and between which bounds it lies with 95% confidence. What is not defined is NaN, null in JSON."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class TaskResult:
    """What one model reached in one task."""

    metrics: Mapping[str, Measure]
    """By name, each in its own unit: shares from 0 to 1, correlations from -1 to 1, losses in nats."""
    main: str
    """The metric that stands for the task in tables and figures."""
    items: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By metric, the score of every item in the order of the data, the same for all models. Their mean is the metric,
    except where it is no mean (correlations, F1): then there is none."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else a reader wants to know: the learning rate chosen, the spread over seeds, subgroups. JSON."""

    @property
    def main_measure(self) -> Measure:
        """The main metric's figure."""
        return self.metrics[self.main]

    def summary(self) -> dict[str, Any]:
        """Return everything but the items, ready for JSON."""
        metrics = {name: {key: _or_null(value) for key, value in vars(m).items()} for name, m in self.metrics.items()}
        return {"main": self.main, "metrics": metrics, "details": self.details}

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any], items: Mapping[str, Sequence[float]]) -> TaskResult:
        """Undo ``summary``."""
        metrics = {
            name: Measure(**{key: _or_nan(bound) for key, bound in measure.items()})
            for name, measure in summary["metrics"].items()
        }
        return cls(metrics, summary["main"], items, summary["details"])


@dataclass(frozen=True)
class ModelResults:
    """Everything that is known of one model."""

    name: str
    model: Mapping[str, Any]
    """As ``Subject.as_dict`` gave it."""
    suites: Mapping[str, Mapping[str, TaskResult]]
    """By suite, by task; finished tasks only."""
    settings: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    """By suite, by task: what a result depends on beside the model. Figures with unlike settings do not compare."""
    local: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By suite, the tasks whose data were the user's own files. Where a result does not tell, it is taken for one:
    a name alone proves nothing."""


def read_results(output: Path) -> list[ModelResults]:
    """Read all models' results from the folder that ``tools/evaluate.py`` wrote, in the order of their names.

    Raises:
        ConfigError: there are none, or a file is damaged.
    """
    found = [read_model(path.parent) for path in sorted(output.glob(f"*/{MODEL_FILE}"))]
    if not found:
        raise ConfigError(f"{output} holds no results: there is no */{MODEL_FILE} in it")
    return found


def read_model(folder: Path) -> ModelResults:
    """Read one model's results.

    Raises:
        ConfigError: a file is damaged.
    """
    paths = [path for path in sorted(folder.glob("*.json")) if path.name != MODEL_FILE]
    suites: dict[str, dict[str, TaskResult]] = {}
    settings: dict[str, dict[str, Mapping[str, Any]]] = {}
    local: dict[str, frozenset[str]] = {}
    for path in paths:
        told_suite = read_json(path)
        try:
            tasks = sorted(told_suite.get("tasks", {}).items())
            suites[path.stem] = {
                task: TaskResult.from_summary(told, read_items(folder, path.stem, task)) for task, told in tasks
            }
            settings[path.stem] = {task: told["settings"] for task, told in tasks}
            local[path.stem] = frozenset(task for task, told in tasks if told.get(LOCAL, True))
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} is damaged: {type(error).__name__} {error}") from error
    return ModelResults(folder.name, read_json(folder / MODEL_FILE), suites, settings, local)


def read_items(folder: Path, suite: str, task: str) -> dict[str, list[float]]:
    """Return the scores of single items of a model's task by metric; {} where it keeps none."""
    path = folder / ITEMS_FOLDER / suite / f"{task}.json"
    if not path.is_file():
        return {}
    return {metric: [_or_nan(score) for score in scores] for metric, scores in read_json(path).items()}


def items_as_json(result: TaskResult) -> dict[str, list[float | None]]:
    """Return the items as they stand on disk."""
    return {metric: [_or_null(score) for score in scores] for metric, scores in result.items.items()}


def read_json(path: Path) -> dict[str, Any]:
    """Read an object.

    Raises:
        ConfigError: the file holds no JSON object.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}") from error
    if not isinstance(told, dict):
        raise ConfigError(f"{path} is damaged: it holds no JSON object")
    return told


def _or_null(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None


def _or_nan(number: float | None) -> float:
    return math.nan if number is None else number
