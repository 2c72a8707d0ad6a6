"""The suite ``retrieval``: contrastive fine-tuning, then ranking documents for queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from megatron_ettin.evaluation.models.subject import Subject
from megatron_ettin.evaluation.results import TaskResult
from megatron_ettin.evaluation.suite import SuiteOptions, Task, TaskRun
from megatron_ettin.evaluation.suites.retrieval import hub
from megatron_ettin.evaluation.suites.retrieval import protocol as protocols
from megatron_ettin.evaluation.suites.retrieval.mteb_task import MtebTask
from megatron_ettin.evaluation.suites.retrieval.pairs import LocalData, read_local_data
from megatron_ettin.evaluation.suites.retrieval.protocol import RetrievalProtocol
from megatron_ettin.evaluation.suites.retrieval.ranking import METRICS, TIE, chance_ndcg, result_of_queries, score_all
from megatron_ettin.evaluation.suites.retrieval.trials import Trials
from megatron_ettin.evaluation.task_data import find_task_folders


@dataclass(frozen=True)
class LocalRetrieval:
    """A folder of pairs under one protocol."""

    data: LocalData
    protocol: RetrievalProtocol
    is_local: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.data.name

    @property
    def settings(self) -> Mapping[str, Any]:
        """Data and protocol."""
        data = self.data
        return {
            "train_pairs": len(data.training.train_pairs),
            "held_out_pairs": len(data.training.held_out_pairs),
            "queries": len(data.test.queries),
            "documents": len(data.test.documents),
            "queries_seen_in_training": data.num_seen_in_training,
            "data_checksum": data.checksum,
            "ties": f"pessimistic, within {TIE:g}",
            "protocol": self.protocol.as_dict(),
        }

    def check(self, subject: Subject) -> None:
        """Raise ConfigError if the model cannot embed texts of the protocol's length."""
        from megatron_ettin.evaluation.suites.retrieval.embedder import check_embeddable

        check_embeddable(subject, self.protocol.max_length)

    def run(self, subject: Subject, run: TaskRun) -> TaskResult:
        """Train over the grid, select on held-out training pairs, and rank the test documents with each seed."""
        trials = Trials(subject, self.data.training, self.protocol, run)
        selection = trials.select_rate()
        by_seed = []
        for seed in self.protocol.seeds:
            # The part is requested before its embedder, so that one whose weights are deleted is not trained again.
            ranks = run.parts.get_or_compute(f"seed_{seed}", partial(self._rank, trials, selection.best, seed))
            by_seed.append(score_all(ranks))
            trials.delete_weights(selection.best, seed)
        chance = {"ndcg_at_10_by_chance": chance_ndcg(len(self.data.test.documents))}
        return result_of_queries(by_seed, METRICS[0], {**trials.details(selection), **chance})

    def _rank(self, trials: Trials, rate: float, seed: int) -> list[list[int]]:
        from megatron_ettin.evaluation.suites.retrieval.embedder import load_embedder, rank_all

        return rank_all(load_embedder(trials.trained(rate, seed), self.protocol), self.data.test, self.protocol)


class RetrievalSuite:
    """Tasks of mteb by name after training on triplets of the Hub, or local pairs."""

    name = "retrieval"

    def add_flags(self, add: Callable[..., Any]) -> None:
        """Add the flags of the protocol and of the training data."""
        protocols.add_flags(add)
        hub.add_flags(add)

    def build_tasks(self, options: SuiteOptions) -> Sequence[Task]:
        """Read and check the data of all requested tasks; data of the Hub are downloaded when the first task runs.

        Raises:
            ConfigError: a file, column or task name is invalid, there are too few pairs, or the Hub cannot be reached.
        """
        protocol = RetrievalProtocol.from_options(options, batch_size=options.batch_size)
        if options.data is not None:
            folders = find_task_folders(options.data, self.name, options.tasks)
            return [LocalRetrieval(read_local_data(folder, protocol), protocol) for folder in folders]
        flags = options.flags_of(self.name)
        name, num_rows = flags.get("train_data", hub.TRAIN_DATA), flags.get("train_rows", hub.TRAIN_ROWS)
        tasks = hub.find_mteb_tasks(options.tasks)
        training = hub.HubTraining(name, num_rows, protocol.held_out, protocol.batch_pairs)
        training.check()
        return [MtebTask(task, training, protocol) for task in tasks]


SUITE = RetrievalSuite()
