"""A classification task that a model is put to: trials, choice, metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megatron_ettin.evaluation.models.subject import Subject
from megatron_ettin.evaluation.rate_choice import RateChoice
from megatron_ettin.evaluation.results import Measure, TaskResult
from megatron_ettin.evaluation.statistics import spread_over_seeds
from megatron_ettin.evaluation.suite import TaskRun
from megatron_ettin.evaluation.suites.classification.data import LabelledTask
from megatron_ettin.evaluation.suites.classification.metrics import MEANS, METRICS, measure
from megatron_ettin.evaluation.suites.classification.protocol import Protocol


@dataclass(frozen=True)
class ClassificationTask:
    """One labelled task under one protocol."""

    data: LabelledTask
    metrics: Sequence[str]
    """Names of ``METRICS``; the first stands for the task and chooses the learning rate."""
    protocol: Protocol

    @property
    def name(self) -> str:
        """The task's name on the hub, or its folder's."""
        return self.data.name

    @property
    def is_local(self) -> bool:
        """Whether it was read from files of the user's."""
        return self.data.is_local

    @property
    def settings(self) -> Mapping[str, Any]:
        """Data and protocol."""
        purposes = self.data.purposes
        return {
            "items": purposes.counts,
            "origins": dict(purposes.origins),
            "classes": self.data.classes and list(self.data.classes),
            "data_checksum": purposes.checksum,
            "metrics": list(self.metrics),
            "protocol": self.protocol.as_dict(),
        }

    def check(self, subject: Subject) -> None:
        """Accept any model: without a prediction head it gets a fresh one."""

    def run(self, subject: Subject, run: TaskRun) -> TaskResult:
        """Fine-tune over the grid, choose on the choice items alone, and report what the chosen rate came to."""
        from megatron_ettin.evaluation.suites.classification.trials import TrialResult, TrialRunner, score_choice

        protocol, runner = self.protocol, TrialRunner(subject, self.data, self.protocol)
        rates, first_seeds = protocol.learning_rates, protocol.seeds_to_choose_on
        num_trials = len(rates) * len(first_seeds) + len(protocol.seeds) - len(first_seeds)
        done = 0

        def trial(rate: float, seed: int) -> TrialResult:
            nonlocal done
            what = f"learning rate {rate:g}, seed {seed}"

            def progress(step: int, steps: int) -> None:
                run.progress(what, done * steps + step, num_trials * steps)

            part = f"learning_rate_{rate}_seed_{seed}"
            told = run.memory.recall(part, lambda: runner.run(rate, seed, progress).as_json())
            done += 1
            return TrialResult.from_json(told)

        results = {rate: [trial(rate, seed) for seed in first_seeds] for rate in rates}
        metric, choice = METRICS[self.metrics[0]], self.data.purposes.choice
        chosen = RateChoice({rate: score_choice(metric, choice, told) for rate, told in results.items()})
        trials = results[chosen.best] + [trial(chosen.best, seed) for seed in protocol.seeds[len(first_seeds) :]]
        details = {
            **chosen.as_details(),
            "pooling": runner.pooling,
            "max_length": runner.max_length,
            "released_head": runner.keeps_head,
        }
        return self._result(trials, details)

    def _result(self, trials: Sequence[Any], details: Mapping[str, Any]) -> TaskResult:
        metrics: dict[str, Measure] = {}
        items: dict[str, Sequence[float]] = {}
        by_seed: dict[str, list[float]] = {}
        for split_name, split in self.data.purposes.reported.items():
            predictions_KN = np.stack([told.reported[split_name] for told in trials])
            for name in self.metrics:
                figure = f"{name}_{split_name}" if split_name else name
                metrics[figure] = measure(METRICS[name], split.targets_N, predictions_KN)
                by_seed[figure] = [METRICS[name](split.targets_N, told) for told in predictions_KN]
                if name in MEANS:
                    items[figure] = (predictions_KN == split.targets_N).mean(axis=0).tolist()
        spread = spread_over_seeds(by_seed)
        told = {**details, "by_seed": by_seed, "standard_deviation_over_seeds": spread, **self._chance()}
        return TaskResult(metrics, self.metrics[0], items, told)

    def _chance(self) -> dict[str, float]:
        """Return the accuracy of always telling the class that is most frequent in training."""
        if self.data.classes is None:
            return {}
        most_frequent, _ = Counter(self.data.purposes.train.targets_N.tolist()).most_common(1)[0]
        main = next(iter(self.data.purposes.reported.values()))
        return {"accuracy_of_most_frequent_class": float(np.mean(main.targets_N == most_frequent))}
