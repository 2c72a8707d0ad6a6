"""The suite ``classification``: fine-tuning on labelled texts and pairs of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from megatron_ettin.evaluation.suite import SuiteOptions
from megatron_ettin.evaluation.suites.classification import protocol as protocols
from megatron_ettin.evaluation.suites.classification.data import LabelledTask, draw_purposes
from megatron_ettin.evaluation.suites.classification.glue import GLUE, check_names, load_glue_task
from megatron_ettin.evaluation.suites.classification.local import read_local_task
from megatron_ettin.evaluation.suites.classification.protocol import Protocol
from megatron_ettin.evaluation.suites.classification.task import ClassificationTask
from megatron_ettin.evaluation.task_data import find_task_folders


class ClassificationSuite:
    """GLUE by name, or local files."""

    name = "classification"

    def add_flags(self, add: Callable[..., Any]) -> None:
        """Add what fine-tuning can be told."""
        protocols.add_flags(add)

    def build_tasks(self, options: SuiteOptions) -> Sequence[ClassificationTask]:
        """Read and check the data of all tasks wanted.

        Raises:
            ConfigError: a file, column, label or task name is wrong, or the hub cannot be reached.
        """
        protocol = Protocol.from_options(options)
        if options.data is None:
            names = check_names(options.tasks)
            return [
                _task(load_glue_task(name, protocol.held_out_share), GLUE[name].metrics, protocol) for name in names
            ]
        folders = find_task_folders(options.data, self.name, options.tasks)
        tasks = [read_local_task(folder, protocol.held_out_share) for folder in folders]
        return [_task(task, _local_metrics(task), protocol) for task in tasks]


def _task(data: LabelledTask, metrics: Sequence[str], protocol: Protocol) -> ClassificationTask:
    purposes = draw_purposes(
        data.purposes, protocol.train_items, protocol.test_items, is_regression=data.classes is None
    )
    return ClassificationTask(replace(data, purposes=purposes), metrics, protocol)


def _local_metrics(task: LabelledTask) -> Sequence[str]:
    return ("spearman", "pearson") if task.classes is None else ("accuracy",)


SUITE = ClassificationSuite()
