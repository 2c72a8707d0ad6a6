"""A task of the generative suite: items of lm-evaluation-harness, evaluated on encoders and decoders."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.models.subject import Subject, check_head
from megatron_ettin.evaluation.results import Measure, TaskResult
from megatron_ettin.evaluation.statistics import bootstrap_measure, mean_measure
from megatron_ettin.evaluation.suite import TaskRun
from megatron_ettin.evaluation.suites.generative.harness import HarnessTask, Scores, aggregate, is_mean
from megatron_ettin.evaluation.suites.generative.masked_inputs import EncoderProtocol
from megatron_ettin.evaluation.suites.generative.model import EvaluatedModel, ScoringSettings

PUBLISHED_TASKS: Mapping[str, str] = {
    "arc_challenge": "acc_norm",
    "hellaswag": "acc_norm",
    "lambada_openai": "acc",
    "openbookqa": "acc_norm",
    "piqa": "acc_norm",
    "sciq": "acc",
    "social_iqa": "acc",
    "triviaqa": "exact_match",
    "winogrande": "acc",
    "wsc273": "acc",
}
"""Tasks of the paper's table -> the metric that its column most likely reports (see docs/evaluation_protocol.md)."""
OTHER_MAIN_METRICS = ("acc_norm", "acc", "exact_match")
"""The primary metric of other tasks is the first of these that they have, or else their own first metric."""
_ITEMS_PER_PART = 1000
"""Items that are scored and stored together."""


@dataclass(frozen=True)
class GenerativeTask:
    """A task of the harness, or a group of tasks whose items are pooled."""

    given: str
    """The name of the harness task or of the file."""
    members: Sequence[HarnessTask]
    origin: Mapping[str, Any]
    """The source of the items with a checksum or version."""
    scoring: ScoringSettings
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By column, the group of each item; results are also reported by group."""
    is_local: bool = False
    """Whether the items are from a local file."""

    @property
    def name(self) -> str:
        """The given name, with ``_pll`` appended under that protocol, so that results of both protocols are kept."""
        return f"{self.given}_pll" if self._protocol == "pll" else self.given

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything besides the model that a result depends on."""
        return {
            **self.origin,
            "items": self._num_items,
            "num_fewshot": {member.name: member.num_fewshot for member in self.members},
            "encoder_protocol": self._protocol,
            "encoder_future_masks": self.scoring.future_masks,
        }

    @property
    def _protocol(self) -> EncoderProtocol:
        uses_pll = any(self.scoring.protocol_of(member) == "pll" for member in self.members)
        return "pll" if uses_pll else "left-to-right"

    @property
    def _num_items(self) -> int:
        return sum(len(member.docs) for member in self.members)

    def check(self, subject: Subject) -> None:
        """Raise ConfigError if the model has no prediction head."""
        check_head(subject)

    def run(self, subject: Subject, run: TaskRun) -> TaskResult:
        """Score all items, a thousand at a time, and aggregate."""
        model = EvaluatedModel(subject, self.scoring)
        scores_by_member: list[Scores] = []
        done = num_truncated = 0
        for member in self.members:
            parts: list[Scores] = []
            for start in range(0, len(member.docs), _ITEMS_PER_PART):
                docs = member.docs[start : start + _ITEMS_PER_PART]
                score = partial(model.score, member, docs, partial(self._report, run, done, len(docs)))
                part = run.parts.get_or_compute(f"{member.name} {start}", score)
                parts.append(part["scores"])
                num_truncated += part["num_cut"]
                done += len(docs)
                run.progress(self.name, done, self._num_items)
            scores_by_member.append(
                {metric: [score for part in parts for score in part[metric]] for metric in parts[0]}
            )
        if num_truncated:
            message = "%s, %s: %d texts exceeded the model's positions and lost their start"
            logging.getLogger(__name__).warning(message, subject.given, self.name, num_truncated)
        return self._aggregate(scores_by_member, num_truncated)

    def _report(self, run: TaskRun, done: int, num_docs: int, fraction: float) -> None:
        run.progress(self.name, done + int(fraction * num_docs), self._num_items)

    def _aggregate(self, scores_by_member: Sequence[Scores], num_truncated: int) -> TaskResult:
        first = self.members[0]
        shared = [metric for metric in scores_by_member[0] if all(metric in scores for scores in scores_by_member)]
        if not shared:
            raise ConfigError(f"--tasks {self.given}: its tasks have no metric in common; name them individually")
        pooled = {metric: [score for scores in scores_by_member for score in scores[metric]] for metric in shared}
        metrics = {metric: _measure(first, metric, scores) for metric, scores in pooled.items()}
        items = {metric: [float(score) for score in pooled[metric]] for metric in pooled if is_mean(first, metric)}
        main = _main_metric(self.given, list(metrics))
        details: dict[str, Any] = {"higher_is_better": first.higher_is_better, "texts_cut": num_truncated}
        if len(self.members) > 1:
            details["by_task"] = {
                member.name: _summary(_measure(member, main, scores[main]), len(scores[main]))
                for member, scores in zip(self.members, scores_by_member, strict=True)
            }
        for column, groups in self.groups.items():
            details[f"by_{column}"] = _by_group(items[main], groups)
        return TaskResult(metrics, main, items, details)


def _measure(task: HarnessTask, metric: str, scores: Sequence[Any]) -> Measure:
    if is_mean(task, metric):
        return mean_measure(scores)
    return bootstrap_measure(
        lambda indices: aggregate(task, metric, [scores[int(i)] for i in np.asarray(indices)]), len(scores)
    )


def _main_metric(task: str, metrics: Sequence[str]) -> str:
    preferred = (PUBLISHED_TASKS.get(task, ""), *OTHER_MAIN_METRICS)
    return next((metric for metric in preferred if metric in metrics), metrics[0])


def _by_group(items: Sequence[float], groups: Sequence[str]) -> dict[str, Any]:
    """Return the mean score of each group, in the order of their first items."""
    by_group: dict[str, list[float]] = {}
    for score, group in zip(items, groups, strict=True):
        by_group.setdefault(group, []).append(score)
    return {group: _summary(mean_measure(scores), len(scores)) for group, scores in by_group.items()}


def _summary(measure: Measure, num_items: int) -> dict[str, float]:
    return {"value": measure.value, "low": measure.low, "high": measure.high, "items": num_items}
