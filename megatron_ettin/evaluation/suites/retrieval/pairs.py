"""Pairs of a query and a document, and local files of them.

DIR/retrieval/TASK/{train,test}.jsonl have ``query`` and ``positive``; the optional distractors.jsonl has ``text``.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.suites.retrieval.protocol import RetrievalProtocol
from megatron_ettin.evaluation.task_data import read_rows, read_text

Pair = tuple[str, str]
"""A query and a relevant document."""

HELD_OUT_SEED = 12
"""Draws the held-out pairs, as in the paper's training script; the same for all models and training seeds."""


@dataclass(frozen=True)
class Retrieval:
    """Queries, documents and relevance judgements."""

    queries: Sequence[str]
    documents: Sequence[str]
    relevant: Sequence[Sequence[int]]
    """For each query, the indices of its relevant documents."""

    @classmethod
    def of_pairs(cls, pairs: Iterable[Pair], distractors: Iterable[str] = ()) -> Retrieval:
        """Collect the distinct queries and documents of pairs; a repeated query has several relevant documents.

        Args:
            pairs: queries and relevant documents.
            distractors: further documents, relevant to no query unless they also occur in the pairs.
        """
        queries: dict[str, list[int]] = {}
        documents: dict[str, int] = {}
        for query, document in pairs:
            index = documents.setdefault(document, len(documents))
            relevant = queries.setdefault(query, [])
            if index not in relevant:
                relevant.append(index)
        for document in distractors:
            documents.setdefault(document, len(documents))
        return cls(list(queries), list(documents), list(queries.values()))


@dataclass(frozen=True)
class LocalTraining:
    """Training pairs of a file, some of them held out."""

    train_pairs: Sequence[Pair]
    held_out_pairs: Sequence[Pair]

    @cached_property
    def checksum(self) -> str:
        """SHA-256 over all pairs in order."""
        return checksum_of(self.train_pairs, self.held_out_pairs)

    def load_train(self) -> Any:
        """Return a ``datasets.Dataset`` with columns query and positive."""
        from datasets import Dataset

        queries, positives = zip(*self.train_pairs, strict=True)
        return Dataset.from_dict({"query": list(queries), "positive": list(positives)})

    def load_held_out(self) -> Retrieval:
        """Return the pairs that select the learning rate."""
        return Retrieval.of_pairs(self.held_out_pairs)


@dataclass(frozen=True)
class LocalData:
    """The checked files of one task."""

    name: str
    training: LocalTraining
    test: Retrieval
    num_seen_in_training: int
    """Test queries whose text also occurs in the training file, held-out pairs included."""

    @cached_property
    def checksum(self) -> str:
        """SHA-256 over the training pairs and the test data."""
        test = self.test
        return checksum_of([self.training.checksum], test.queries, test.documents, test.relevant)


def read_local_data(folder: Path, protocol: RetrievalProtocol) -> LocalData:
    """Read a task.

    Raises:
        ConfigError: a file is missing or empty, a line is invalid, or there are too few pairs; it names the file.
    """
    paths = {name: folder / f"{name}.jsonl" for name in ("train", "test", "distractors")}
    for name in ("train", "test"):
        if not paths[name].is_file():
            raise ConfigError(f"{folder}: has no {name}.jsonl")
    train_pairs, test_pairs = _read_pairs(paths["train"]), _read_pairs(paths["test"])
    distractors = _read_texts(paths["distractors"]) if paths["distractors"].is_file() else []
    train, held_out = hold_out(train_pairs, protocol.held_out)
    _check_enough(paths["train"], train, held_out, protocol)
    test = Retrieval.of_pairs(test_pairs, distractors)
    if len(test.documents) < 2:
        raise ConfigError(f"{paths['test']}: has 1 distinct document; ranking needs at least 2")
    seen = {query for query, _ in train_pairs}
    return LocalData(folder.name, LocalTraining(train, held_out), test, sum(query in seen for query in test.queries))


def hold_out(pairs: Sequence[Pair], num_held_out: int) -> tuple[list[Pair], list[Pair]]:
    """Split the pairs of a training file at random into pairs to train on and pairs to select on.

    Args:
        pairs: all pairs of the file.
        num_held_out: number of pairs to select on; limited to a tenth of all.
    """
    shuffled = list(pairs)
    random.Random(HELD_OUT_SEED).shuffle(shuffled)
    num_held_out = min(num_held_out, len(shuffled) // 10)
    return shuffled[num_held_out:], shuffled[:num_held_out]


def checksum_of(*parts: Sequence[object]) -> str:
    """Return the SHA-256 over sequences in order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(list(part)).encode())
    return digest.hexdigest()


def _check_enough(path: Path, train: Sequence[Pair], held_out: Sequence[Pair], protocol: RetrievalProtocol) -> None:
    """Check that there are enough pairs for a step without repeated texts, and for the selection."""
    distinct = min(len({pair[side] for pair in train}) for side in (0, 1))
    if distinct < protocol.batch_pairs:
        raise ConfigError(
            f"--retrieval-batch-pairs {protocol.batch_pairs}: {path} has {distinct} distinct training pairs, "
            f"with {len(held_out)} held out; must be no more"
        )
    if len(protocol.learning_rates) > 1 and len(held_out) < 2:
        rule = "are too few to hold a tenth out for selection; give one rate"
        raise ConfigError(f"--retrieval-learning-rates: the {len(train)} pairs of {path} {rule}")


def _read_pairs(path: Path) -> list[Pair]:
    return [(read_text(row, "query", place), read_text(row, "positive", place)) for place, row in read_rows(path)]


def _read_texts(path: Path) -> list[str]:
    return [read_text(row, "text", place) for place, row in read_rows(path, may_be_empty=True)]
