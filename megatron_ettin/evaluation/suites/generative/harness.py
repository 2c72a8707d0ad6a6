"""What is asked of lm-evaluation-harness: its tasks by name, and the scores of single items."""

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
from typing import Any

import numpy as np

from megatron_ettin.errors import ConfigError, one_line

SEED = 1234
"""Of the examples in a prompt, where a task has any: the harness's own seed."""

_NOT_OFFERED = {"UNSAFE_CODE": "runs programs that a model writes", "MULTIMODAL": "needs more than text"}
"""Marks of the harness's tasks, and what they mean."""

Scores = dict[str, list[Any]]
"""By metric, what the harness says of each item: a number, or what it computes the metric from."""


@dataclass(frozen=True)
class HarnessTask:
    """One task of the harness, its data loaded."""

    name: str
    task: Any
    """``lm_eval.api.task.Task``."""
    docs: Sequence[Any]
    """The items that models are put to, in the harness's order."""

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
        """Solved examples in each prompt."""
        return int(self.task.get_config("num_fewshot"))

    @property
    def higher_is_better(self) -> dict[str, bool]:
        """By metric."""
        return dict(self.task.higher_is_better())


def spread_evenly(items: Sequence[Any], limit: int | None) -> Sequence[Any]:
    """Return at most ``limit`` items from all over the sequence, in its order: files are often sorted."""
    if limit is None or limit >= len(items):
        return items
    return [items[index * len(items) // limit] for index in range(limit)]


def check_name(name: str, files: Collection[str] = ()) -> None:
    """Raise ConfigError when the harness has no task, group or tag of this name; ``files`` might have been meant."""
    known = _open_manager().all_tasks
    if name not in known:
        # Among thousands of names several are near; the nearest by letters is often not the one that was meant.
        near = dict.fromkeys([*get_close_matches(name, files, n=1), *get_close_matches(name, known, n=4)])
        meant = f"; did you mean {', '.join(near)}?" if near else ""
        rule = "lm-evaluation-harness knows no such task" + (
            f", nor is it a file ({', '.join(files)})" if files else ""
        )
        raise ConfigError(f"--tasks {name}: {rule}{meant}")


def load_tasks(spec: str | Mapping[str, Any], flag: str, limit: int | None = None) -> list[HarnessTask]:
    """Load what a name or a configuration stands for; zero-shot where a task itself asks for no examples.

    Args:
        spec: a name that the harness knows, of a group too, or a task's configuration.
        flag: where it comes from, for messages.
        limit: how many items of each task are kept.

    Raises:
        ConfigError: the data cannot be fetched, or the task needs what is not offered here.
    """
    manager = _open_manager() if isinstance(spec, str) else _open_manager(include_defaults=False)
    with quiet():
        try:
            loaded = manager.load([spec])["tasks"]
        except Exception as error:  # whatever datasets, the network under it or a task's own code raises
            raise ConfigError(f"{flag}: its data cannot be loaded ({one_line(error)[:300]})") from error
        return [_prepare(name, task, flag, limit) for name, task in loaded.items()]


def _prepare(name: str, task: Any, flag: str, limit: int | None) -> HarnessTask:
    for attribute, rule in (
        ("UNSAFE_CODE", "runs programs that a model writes"),
        ("MULTIMODAL", "needs more than text"),
    ):
        if getattr(task, attribute, False):
            raise ConfigError(f"{flag}: {name} {rule}, which this suite does not offer")
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    return HarnessTask(name, task, list(spread_evenly(task.eval_docs, limit)))


def score_items(lm: Any, task: HarnessTask, docs: Sequence[Any]) -> Scores:
    """Put a model of the harness to some of the task's items; return what it says of each."""
    from lm_eval import evaluate

    # The harness selects items by walking over all of them twice; it asks this method for them.
    task.task.doc_iterator = lambda **_: enumerate(docs)
    task.task.set_fewshot_seed(seed=SEED)
    random.seed(SEED)
    np.random.seed(SEED)
    with quiet():
        told = evaluate(lm=lm, task_dict={"tasks": {task.name: task.task}}, bootstrap_iters=0, log_samples=True)
    samples = told["samples"][task.name]
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    scores: Scores = {}
    for sample in samples:
        for metric in sample["metrics"]:
            key = metric if len(filters) == 1 else f"{metric},{sample['filter']}"
            scores.setdefault(key, []).append(_plain(sample[metric]))
    return scores


def aggregate(task: HarnessTask, metric: str, scores: Sequence[Any]) -> float:
    """Return a metric over items as the harness computes it."""
    return float(task.task.aggregation()[metric.split(",")[0]](list(scores)))


def is_mean(task: HarnessTask, metric: str) -> bool:
    """Whether the harness takes the mean of the items."""
    from lm_eval.api.metrics import mean

    return task.task.aggregation().get(metric.split(",")[0]) is mean


def harness_version() -> str:
    """Return the version that is installed.

    Raises:
        ModuleNotFoundError: none is.
    """
    from importlib.metadata import version

    return version("lm_eval")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the harness and what it loads from drawing bars and telling what is of no consequence here."""
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


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it."""
    if isinstance(value, (bool, int, float, str)) or value is None:
        return float(value) if isinstance(value, bool) else value
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return float(value)


class RequestProgress:
    """How far a model is, and how many requests were too long for it."""

    def __init__(self) -> None:
        """Begin with nobody listening."""
        self.listener: Callable[[float], None] = lambda _: None
        self.num_cut = 0
        """Requests whose text lost its beginning."""

    def tell(self, done: int, total: int) -> None:
        """Tell the listener which share of the requests is answered."""
        self.listener(done / max(total, 1))
