"""Pairs from files: DIR/retrieval/TASK/{train,test}.jsonl with query and positive, and distractors.jsonl with text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.models.subject import Subject
from megatron_ettin.evaluation.results import TaskResult
from megatron_ettin.evaluation.suite import TaskRun
from megatron_ettin.evaluation.suites.retrieval.pairs import Pair, Retrieval, checksum_of, hold_out
from megatron_ettin.evaluation.suites.retrieval.protocol import Protocol
from megatron_ettin.evaluation.suites.retrieval.ranking import (
    METRICS,
    TIE,
    chance_ndcg,
    describe_choice,
    result_of_queries,
    score_all,
)
from megatron_ettin.evaluation.suites.retrieval.trials import Trials
from megatron_ettin.evaluation.task_data import read_rows, read_text

FOLDER = "retrieval"


@dataclass(frozen=True)
class LocalTraining:
    """Pairs of a file, some of them held out."""

    train_pairs: Sequence[Pair]
    held_out_pairs: Sequence[Pair]

    @cached_property
    def checksum(self) -> str:
        """Over all pairs, in their order."""
        return checksum_of(self.train_pairs, self.held_out_pairs)

    def load_train(self) -> Any:
        """Return a ``datasets.Dataset`` of query and positive."""
        from datasets import Dataset

        queries, positives = zip(*self.train_pairs, strict=True)
        return Dataset.from_dict({"query": list(queries), "positive": list(positives)})

    def load_held_out(self) -> Retrieval:
        """Return the pairs to choose the learning rate on."""
        return Retrieval.of_pairs(self.held_out_pairs)


@dataclass(frozen=True)
class LocalData:
    """One task's files, read and checked."""

    name: str
    training: LocalTraining
    test: Retrieval
    num_seen_in_training: int
    """Test queries whose text is in the training file, held-out pairs counted."""

    @cached_property
    def checksum(self) -> str:
        """Over everything that is learned from and ranked."""
        test = self.test
        return checksum_of([self.training.checksum], test.queries, test.documents, test.relevant)


def read_local_data(folder: Path, protocol: Protocol) -> LocalData:
    """Read a task.

    Raises:
        ConfigError: a file is missing or empty, a line is wrong, or there are too few pairs; it names the file.
    """
    paths = {name: folder / f"{name}.jsonl" for name in ("train", "test", "distractors")}
    for name in ("train", "test"):
        if not paths[name].is_file():
            raise ConfigError(f"{folder}: has no {name}.jsonl")
    pairs, tested = _read_pairs(paths["train"]), _read_pairs(paths["test"])
    distractors = _read_texts(paths["distractors"]) if paths["distractors"].is_file() else []
    train, held_out = hold_out(pairs, protocol.held_out)
    _check_enough(paths["train"], train, held_out, protocol)
    test = Retrieval.of_pairs(tested, distractors)
    if len(test.documents) < 2:
        raise ConfigError(f"{paths['test']}: holds 1 different document; there must be at least 2 to rank")
    seen = {query for query, _ in pairs}
    return LocalData(folder.name, LocalTraining(train, held_out), test, sum(query in seen for query in test.queries))


def _check_enough(path: Path, train: Sequence[Pair], held_out: Sequence[Pair], protocol: Protocol) -> None:
    """Refuse too few pairs for a step, in which no text may come twice, or for a choice."""
    different = min(len({pair[side] for pair in train}) for side in (0, 1))
    if different < protocol.batch_pairs:
        raise ConfigError(
            f"--retrieval-batch-pairs {protocol.batch_pairs}: {path} has {different} different pairs to learn from, "
            f"with {len(held_out)} held out; must be no more"
        )
    if len(protocol.learning_rates) > 1 and len(held_out) < 2:
        rule = "are too few to hold a tenth out to choose on; give one rate"
        raise ConfigError(f"--retrieval-learning-rates: the {len(train)} pairs of {path} {rule}")


def _read_pairs(path: Path) -> list[Pair]:
    pairs = [(read_text(row, "query", place), read_text(row, "positive", place)) for place, row in read_rows(path)]
    if not pairs:
        raise ConfigError(f"{path}: is empty")
    return pairs


def _read_texts(path: Path) -> list[str]:
    return [read_text(row, "text", place) for place, row in read_rows(path)]


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
