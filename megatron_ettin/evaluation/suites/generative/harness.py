"""The interface to lm-evaluation-harness: its tasks by name, and the scores of single items."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np

from megatron_ettin.errors import ConfigError, one_line

SEED = 1234
"""Seed of the few-shot examples in prompts; the harness's default."""

_UNSUPPORTED = {"UNSAFE_CODE": "executes programs that a model writes", "MULTIMODAL": "needs more than text"}
"""Attributes of the harness's tasks that this suite does not support."""

Scores = dict[str, list[Any]]
"""By metric, the harness's score of each item: a number, or the values from which the metric is computed."""


@dataclass(frozen=True)
class HarnessTask:
    """A task of the harness with its data."""

    name: str
    task: Any
    """An ``lm_eval.api.task.Task``."""
    docs: Sequence[Any]
    """The evaluated items in the harness's order."""

    @property
    def checksum(self) -> str:
        """SHA-256 over the items."""
        digest = hashlib.sha256()
        for doc in self.docs:
            digest.update(json.dumps(doc, sort_keys=True, default=str).encode())
        return digest.hexdigest()

    @property
    def is_choice(self) -> bool:
        """Whether a model chooses between texts by their likelihood."""
        return bool(self.task.OUTPUT_TYPE == "multiple_choice")

    @property
    def num_fewshot(self) -> int:
        """Number of examples in each prompt."""
        return int(self.task.get_config("num_fewshot"))

    @property
    def higher_is_better(self) -> dict[str, bool]:
        """By metric."""
        return dict(self.task.higher_is_better())


class RequestProgress:
    """Progress of a model over the harness's requests, and the number of truncated texts."""

    def __init__(self) -> None:
        """Start without a callback."""
        self.on_progress: Callable[[float], None] = lambda _: None
        self.num_truncated = 0
        """Requests whose text lost its start."""

    def update(self, done: int, total: int) -> None:
        """Report the fraction of the requests that are answered."""
        self.on_progress(done / max(total, 1))


def spread_evenly(items: Sequence[Any], limit: int | None) -> Sequence[Any]:
    """Return at most ``limit`` items, evenly spaced over the sequence, since files are often sorted."""
    if limit is None or limit >= len(items):
        return items
    return [items[index * len(items) // limit] for index in range(limit)]


def check_name(name: str, files: Collection[str] = ()) -> None:
    """Check that the harness has a task, group or tag of this name.

    Args:
        name: the name on the command line.
        files: names of local tasks, which the message suggests too.

    Raises:
        ConfigError: the harness does not know the name.
    """
    known = _open_manager().all_tasks
    if name not in known:
        # The names are thousands, and the closest by spelling is often not the intended one: suggest several.
        near = dict.fromkeys([*get_close_matches(name, files, n=1), *get_close_matches(name, known, n=4)])
        suggested = f"; did you mean {', '.join(near)}?" if near else ""
        rule = "lm-evaluation-harness knows no such task"
        if files:
            rule += f", nor is it a file ({', '.join(files)})"
        raise ConfigError(f"--tasks {name}: {rule}{suggested}")


def load_tasks(spec: str | Mapping[str, Any], flag: str, limit: int | None = None) -> list[HarnessTask]:
    """Load the tasks of a name or configuration; zero-shot unless a task sets a number of examples.

    Args:
        spec: the name of a task, group or tag of the harness, or the configuration of a task.
        flag: flag and value for messages.
        limit: maximum number of items per task.

    Raises:
        ConfigError: the data cannot be loaded, or the task is not supported.
    """
    manager = _open_manager() if isinstance(spec, str) else _open_manager(include_defaults=False)
    with quiet():
        try:
            loaded = manager.load([spec])["tasks"]
        except Exception as error:  # datasets, the network below it and the code of a task raise any type
            raise ConfigError(f"{flag}: its data cannot be loaded ({one_line(error)[:300]})") from error
        return [_prepare(name, task, flag, limit) for name, task in loaded.items()]


def _prepare(name: str, task: Any, flag: str, limit: int | None) -> HarnessTask:
    for attribute, rule in _UNSUPPORTED.items():
        if getattr(task, attribute, False):
            raise ConfigError(f"{flag}: {name} {rule}, which this suite does not support")
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    return HarnessTask(name, task, list(spread_evenly(task.eval_docs, limit)))


def score_items(lm: Any, task: HarnessTask, docs: Sequence[Any]) -> Scores:
    """Evaluate a model of the harness on some items of a task and return the scores of each item."""
    from lm_eval import evaluate

    # The harness would iterate over all items twice to select some; it calls this method for them.
    task.task.doc_iterator = lambda **_: enumerate(docs)
    task.task.set_fewshot_seed(seed=SEED)
    random.seed(SEED)
    np.random.seed(SEED)
    with quiet():
        results = evaluate(lm=lm, task_dict={"tasks": {task.name: task.task}}, bootstrap_iters=0, log_samples=True)
    samples = results["samples"][task.name]
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    scores: Scores = {}
    for sample in samples:
        for metric in sample["metrics"]:
            key = metric if len(filters) == 1 else f"{metric},{sample['filter']}"
            scores.setdefault(key, []).append(_as_json(sample[metric]))
    return scores


def aggregate(task: HarnessTask, metric: str, scores: Sequence[Any]) -> float:
    """Return a metric over items as the harness computes it."""
    return float(task.task.aggregation()[metric.split(",")[0]](list(scores)))


def is_mean(task: HarnessTask, metric: str) -> bool:
    """Whether the harness computes a metric as the mean over items."""
    from lm_eval.api.metrics import mean

    return task.task.aggregation().get(metric.split(",")[0]) is mean


def harness_version() -> str:
    """Return the installed version.

    Raises:
        ModuleNotFoundError: the harness is not installed.
    """
    return version("lm_eval")


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the progress bars and log messages of the harness and of the libraries it uses."""
    import datasets
    import lm_eval.api.task as task_module

    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    bar, had_bars = task_module.tqdm, datasets.is_progress_bar_enabled()
    task_module.tqdm = lambda items, **_: items
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        task_module.tqdm = bar
        if had_bars:
            datasets.enable_progress_bars()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@cache
def _open_manager(*, include_defaults: bool = True) -> Any:
    from lm_eval.tasks import TaskManager

    with quiet():
        return TaskManager(include_defaults=include_defaults)


def _as_json(value: Any) -> Any:
    """Return a value as JSON represents it."""
    if isinstance(value, (bool, int, float, str)) or value is None:
        return float(value) if isinstance(value, bool) else value
    if isinstance(value, (list, tuple)):
        return [_as_json(part) for part in value]
    return float(value)
