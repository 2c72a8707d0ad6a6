"""The suite ``classification``: fine-tuning on labelled texts and pairs of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from megatron_ettin.evaluation.models.subject import Subject
from megatron_ettin.evaluation.results import Measure, TaskResult
from megatron_ettin.evaluation.statistics import spread_over_seeds
from megatron_ettin.evaluation.suite import SuiteOptions, TaskRun
from megatron_ettin.evaluation.suites.classification import protocol as protocols
from megatron_ettin.evaluation.suites.classification.data import LabelledTask, draw_purposes
from megatron_ettin.evaluation.suites.classification.glue import GLUE, check_names, load_glue_task
from megatron_ettin.evaluation.suites.classification.local import read_local_task
from megatron_ettin.evaluation.suites.classification.metrics import MEANS, METRICS, measure
from megatron_ettin.evaluation.suites.classification.protocol import ClassificationProtocol
from megatron_ettin.evaluation.suites.fine_tuning import RateSelection
from megatron_ettin.evaluation.task_data import find_task_folders


@dataclass(frozen=True)
class ClassificationTask:
    """A labelled task under one protocol."""

    data: LabelledTask
    metrics: Sequence[str]
    """Names of ``METRICS``; the first is the primary metric and selects the learning rate."""
    protocol: ClassificationProtocol

    @property
    def name(self) -> str:
        """The name of the task on the Hub, or of its folder."""
        return self.data.name

    @property
    def is_local(self) -> bool:
        """Whether the data are local files."""
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
        """Accept any model: one without a prediction head gets a random one."""

    def run(self, subject: Subject, run: TaskRun) -> TaskResult:
        """Fine-tune over the grid, select a learning rate on held-out items, and report the trials at that rate."""
        from megatron_ettin.evaluation.suites.classification.trials import TrialResult, TrialRunner, mean_score

        protocol, runner = self.protocol, TrialRunner(subject, self.data, self.protocol)
        rates, first_seeds = protocol.learning_rates, protocol.selection_seeds
        num_trials = len(rates) * len(first_seeds) + len(protocol.seeds) - len(first_seeds)
        done = 0

        def trial(rate: float, seed: int) -> TrialResult:
            nonlocal done

            def progress(step: int, steps: int) -> None:
                run.progress(f"learning rate {rate:g}, seed {seed}", done * steps + step, num_trials * steps)

            part = f"learning_rate_{rate}_seed_{seed}"
            result = run.parts.get_or_compute(part, lambda: runner.run(rate, seed, progress).as_json())
            done += 1
            return TrialResult.from_json(result)

        results = {rate: [trial(rate, seed) for seed in first_seeds] for rate in rates}
        metric, choice = METRICS[self.metrics[0]], self.data.purposes.choice
        selection = RateSelection({rate: mean_score(metric, choice, trials) for rate, trials in results.items()})
        best = selection.best
        trials = results[best] + [trial(best, seed) for seed in protocol.seeds[len(first_seeds) :]]
        details = {
            **selection.as_details(),
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
            predictions_KN = np.stack([trial.reported[split_name] for trial in trials])
            for name in self.metrics:
                key = f"{name}_{split_name}" if split_name else name
                metrics[key] = measure(METRICS[name], split.targets_N, predictions_KN)
                by_seed[key] = [METRICS[name](split.targets_N, predictions_N) for predictions_N in predictions_KN]
                if name in MEANS:
                    items[key] = (predictions_KN == split.targets_N).mean(axis=0).tolist()
        spread = spread_over_seeds(by_seed)
        details = {**details, "by_seed": by_seed, "standard_deviation_over_seeds": spread, **self._majority_accuracy()}
        return TaskResult(metrics, self.metrics[0], items, details)

    def _majority_accuracy(self) -> dict[str, float]:
        """Return the accuracy of always predicting the most frequent training class."""
        if self.data.classes is None:
            return {}
        most_frequent, _ = Counter(self.data.purposes.train.targets_N.tolist()).most_common(1)[0]
        main = next(iter(self.data.purposes.reported.values()))
        return {"accuracy_of_most_frequent_class": float(np.mean(main.targets_N == most_frequent))}


class ClassificationSuite:
    """GLUE tasks by name, or local files."""

    name = "classification"

    def add_flags(self, add: Callable[..., Any]) -> None:
        """Add the flags of the protocol."""
        protocols.add_flags(add)

    def build_tasks(self, options: SuiteOptions) -> Sequence[ClassificationTask]:
        """Read and check the data of all requested tasks.

        Raises:
            ConfigError: a file, column, label or task name is invalid, or the Hub cannot be reached.
        """
        protocol = ClassificationProtocol.from_options(options)
        if options.data is None:
            names = check_names(options.tasks)
            return [
                _task(load_glue_task(name, protocol.held_out_share), GLUE[name].metrics, protocol) for name in names
            ]
        folders = find_task_folders(options.data, self.name, options.tasks)
        tasks = [read_local_task(folder, protocol.held_out_share) for folder in folders]
        return [_task(task, _local_metrics(task), protocol) for task in tasks]


def _task(data: LabelledTask, metrics: Sequence[str], protocol: ClassificationProtocol) -> ClassificationTask:
    purposes = draw_purposes(
        data.purposes, protocol.train_items, protocol.test_items, is_regression=data.classes is None
    )
    return ClassificationTask(replace(data, purposes=purposes), metrics, protocol)


def _local_metrics(task: LabelledTask) -> Sequence[str]:
    return ("spearman", "pearson") if task.classes is None else ("accuracy",)


SUITE = ClassificationSuite()
