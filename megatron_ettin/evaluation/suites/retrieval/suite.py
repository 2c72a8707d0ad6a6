"""The suite ``retrieval``: contrastive fine-tuning, then ranking documents for queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from megatron_ettin.evaluation.suite import SuiteOptions, Task
from megatron_ettin.evaluation.suites.retrieval import hub
from megatron_ettin.evaluation.suites.retrieval import protocol as protocols
from megatron_ettin.evaluation.suites.retrieval.local import FOLDER, LocalRetrieval, read_local_data
from megatron_ettin.evaluation.suites.retrieval.mteb_task import MtebTask
from megatron_ettin.evaluation.suites.retrieval.protocol import Protocol
from megatron_ettin.evaluation.task_data import find_task_folders


class RetrievalSuite:
    """mteb's tasks by name after training on the hub's triplets, or local pairs."""

    name = "retrieval"

    def add_flags(self, add: Callable[..., Any]) -> None:
        """Add what fine-tuning can be told."""
        protocols.add_flags(add)
        hub.add_flags(add)

    def build_tasks(self, options: SuiteOptions) -> Sequence[Task]:
        """Find and check the data of all tasks; the hub's is fetched when the first task runs.

        Raises:
            ConfigError: a file, column or task name is wrong, there are too few pairs, or the hub cannot be reached.
        """
        protocol = Protocol.from_options(options)
        if options.data is not None:
            folders = find_task_folders(options.data, FOLDER, options.tasks)
            return [LocalRetrieval(read_local_data(folder, protocol), protocol) for folder in folders]
        given = options.own(self.name)
        name, num_rows = given.get("train_data", hub.TRAIN_DATA), given.get("train_rows", hub.TRAIN_ROWS)
        tasks = hub.find_mteb_tasks(options.tasks)
        training = hub.HubTraining(name, num_rows, protocol.held_out, protocol.batch_pairs)
        training.check()
        return [MtebTask(task, training, protocol) for task in tasks]


SUITE = RetrievalSuite()
