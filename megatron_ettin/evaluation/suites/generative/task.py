"""A task of the suite: items of lm-evaluation-harness that an encoder or a decoder is put to."""

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
from megatron_ettin.evaluation.suites.generative.examinee import Examinee, ExamSettings
from megatron_ettin.evaluation.suites.generative.harness import HarnessTask, Scores, aggregate, is_mean
from megatron_ettin.evaluation.suites.generative.masked_frames import EncoderProtocol

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
"""Task -> the metric that its column most likely shows (docs/evaluation.md says why)."""


OTHER_MAIN_METRICS = ("acc_norm", "acc", "exact_match")
"""Which metric stands for any other task: the first of these that it has, else its own first."""


_PORTION = 1000
"""Items that are kept together once they are done."""


@dataclass(frozen=True)
class GenerativeTask:
    """A task of the harness, or a group of them whose items count together."""

    given: str
    """As the harness or the file calls it."""
    members: Sequence[HarnessTask]
    origin: Mapping[str, Any]
    """Where the items come from, with a checksum or version."""
    exam: ExamSettings
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By column, the group of each item; results are told for each group too."""
    is_local: bool = False
    """Whether the items are from a file of the user's."""

    @property
    def name(self) -> str:
        """The given name; ``_pll`` follows where encoders see the whole text: both protocols lie side by side."""
        return f"{self.given}_pll" if self._protocol == "pll" else self.given

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything a result depends on beside the model."""
        return {
            **self.origin,
            "items": self._num_items,
            "num_fewshot": {member.name: member.num_fewshot for member in self.members},
            "encoder_protocol": self._protocol,
            "encoder_future_masks": self.exam.future_masks,
        }

    @property
    def _protocol(self) -> EncoderProtocol:
        sees_all = any(self.exam.protocol_of(member) == "pll" for member in self.members)
        return "pll" if sees_all else "left-to-right"

    @property
    def _num_items(self) -> int:
        return sum(len(member.docs) for member in self.members)

    def check(self, subject: Subject) -> None:
        """Raise ConfigError when the model has no prediction head."""
        check_head(subject)

    def run(self, subject: Subject, run: TaskRun) -> TaskResult:
        """Put a model to all items, a thousand at a time, and count."""
        examinee = Examinee(subject, self.exam)
        told: list[Scores] = []
        done = num_cut = 0
        for member in self.members:
            chunks: list[Scores] = []
            for start in range(0, len(member.docs), _PORTION):
                docs = member.docs[start : start + _PORTION]
                ask = partial(examinee.score, member, docs, partial(self._report, run, done, len(docs)))
                answer = run.memory.recall(f"{member.name} {start}", ask)
                chunks.append(answer["scores"])
                num_cut += answer["num_cut"]
                done += len(docs)
                run.progress(self.name, done, self._num_items)
            told.append({metric: [score for chunk in chunks for score in chunk[metric]] for metric in chunks[0]})
        if num_cut:
            message = "%s, %s: %d texts were longer than the model's positions and lost their beginning"
            logging.getLogger(__name__).warning(message, subject.given, self.name, num_cut)
        return self._count(told, num_cut)

    def _report(self, run: TaskRun, done: int, num_docs: int, share: float) -> None:
        run.progress(self.name, done + int(share * num_docs), self._num_items)

    def _count(self, told: Sequence[Scores], num_cut: int) -> TaskResult:
        first = self.members[0]
        shared = [metric for metric in told[0] if all(metric in scores for scores in told)]
        if not shared:
            raise ConfigError(f"--tasks {self.given}: its tasks have no metric in common; name them one by one")
        joined = {metric: [score for scores in told for score in scores[metric]] for metric in shared}
        metrics = {metric: _measure(first, metric, scores) for metric, scores in joined.items()}
        items = {metric: [float(score) for score in joined[metric]] for metric in joined if is_mean(first, metric)}
        main = _main_metric(self.given, list(metrics))
        details: dict[str, Any] = {"higher_is_better": first.higher_is_better, "texts_cut": num_cut}
        if len(self.members) > 1:
            details["by_task"] = {
                member.name: _summary(_measure(member, main, scores[main]), len(scores[main]))
                for member, scores in zip(self.members, told, strict=True)
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
    wanted = (PUBLISHED_TASKS.get(task, ""), *OTHER_MAIN_METRICS)
    return next((metric for metric in wanted if metric in metrics), metrics[0])


def _by_group(items: Sequence[float], groups: Sequence[str]) -> dict[str, Any]:
    """Return a figure for each group, in the order of their first items."""
    found: dict[str, list[float]] = {}
    for score, group in zip(items, groups, strict=True):
        found.setdefault(group, []).append(score)
    return {group: _summary(mean_measure(scores), len(scores)) for group, scores in found.items()}


def _summary(measure: Measure, num_items: int) -> dict[str, float]:
    return {"value": measure.value, "low": measure.low, "high": measure.high, "items": num_items}
