"""Ranking the documents of local pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from megatron_ettin.evaluation.suites.results import TaskResult
from megatron_ettin.evaluation.suites.retrieval.local import LocalData
from megatron_ettin.evaluation.suites.retrieval.protocol import Protocol
from megatron_ettin.evaluation.suites.retrieval.ranking import METRICS, TIE, chance_ndcg, score_all
from megatron_ettin.evaluation.suites.retrieval.report import describe_choice, result_of_queries
from megatron_ettin.evaluation.suites.retrieval.trials import Trials
from megatron_ettin.evaluation.suites.subject import Subject
from megatron_ettin.evaluation.suites.suite import TaskRun


@dataclass(frozen=True)
class LocalRetrieval:
    """One folder of pairs under one protocol."""

    data: LocalData
    protocol: Protocol
    is_local: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """The folder's name."""
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
        """Refuse a model that cannot embed texts.

        Raises:
            ConfigError: transformers cannot load it, or its positions end before the longest text.
        """
        from megatron_ettin.evaluation.suites.retrieval.embedder import check_embeddable

        check_embeddable(subject, self.protocol.max_length)

    def run(self, subject: Subject, run: TaskRun) -> TaskResult:
        """Train over the grid, choose on held-out training pairs alone, and rank the test documents with each seed."""
        trials = Trials(subject, self.data.training, self.protocol, run)
        choice = trials.choose()
        by_seed = []
        for seed in self.protocol.seeds:
            # A part is asked for before its embedder, so that one whose weights are forgotten is not trained again.
            ranks = run.memory.recall(f"seed_{seed}", partial(self._rank, trials, choice.best, seed))
            by_seed.append(score_all(ranks))
            trials.forget_weights(choice.best, seed)
        chance = {"ndcg_at_10_by_chance": chance_ndcg(len(self.data.test.documents))}
        return result_of_queries(by_seed, METRICS[0], {**describe_choice(choice, subject), **chance})

    def _rank(self, trials: Trials, rate: float, seed: int) -> list[list[int]]:
        from megatron_ettin.evaluation.suites.retrieval.embedder import load_embedder, rank_all

        return rank_all(load_embedder(trials.trained(rate, seed), self.protocol), self.data.test, self.protocol)
