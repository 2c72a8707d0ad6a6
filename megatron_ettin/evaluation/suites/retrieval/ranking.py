"""How well documents are ranked for queries: nDCG, reciprocal rank and recall among the first ten.

Shapes: Q queries, N documents, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.evaluation.models.subject import Subject
from megatron_ettin.evaluation.rate_choice import RateChoice
from megatron_ettin.evaluation.results import Measure, TaskResult
from megatron_ettin.evaluation.statistics import mean_measure, spread_over_seeds
from megatron_ettin.evaluation.suites.retrieval.protocol import POOLING

CUTOFF = 10
METRICS = ("ndcg_at_10", "mrr_at_10", "recall_at_10")
"""As mteb names them; the first stands for a task."""
TIE = 1e-6
"""Similarities that differ by less are equal: float32 tells the padding of a batch apart from here on."""

_QUERIES_AT_A_TIME = 256


def rank_relevant(
    queries_QD: NDArray[np.float32], documents_ND: NDArray[np.float32], relevant: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Return the ranks, from 1, of each query's relevant documents among all documents, best first.

    Ties are read pessimistically: a document that is not relevant and as similar as a relevant one stands before it. A
    model that puts all texts in one place, or has diverged to NaN, so finds nothing.

    Args:
        queries_QD: embeddings of length 1.
        documents_ND: the same of the documents.
        relevant: for each query, the indices of its relevant documents.
    """
    ranks: list[list[int]] = []
    for start in range(0, len(queries_QD), _QUERIES_AT_A_TIME):
        scores_QN = queries_QD[start : start + _QUERIES_AT_A_TIME] @ documents_ND.T
        for scores_N, indices in zip(scores_QN, relevant[start : start + _QUERIES_AT_A_TIME], strict=True):
            ranks.append(_ranks_of(scores_N, np.asarray(indices)))
    return ranks


def _ranks_of(scores_N: NDArray[np.float32], indices: NDArray[np.int64]) -> list[int]:
    others = np.delete(scores_N, indices)
    found = -np.sort(-scores_N[indices])  # NaN comes last
    # Counted by what does not stand behind, so that NaN counts as before.
    return [place + int((~(others < score - TIE)).sum()) for place, score in enumerate(found, start=1)]


def score_ranks(ranks: Sequence[int]) -> dict[str, float]:
    """Return the metrics of one query from the ranks of its relevant documents.

    nDCG with gain 1 for a relevant document, discounted by log2(1 + rank), over the best that is possible (Järvelin and
    Kekäläinen 2002). With one relevant document it is 1 / log2(1 + rank) within the first ten and 0 beyond.
    """
    seen = [rank for rank in ranks if rank <= CUTOFF]
    best = sum(_discount(rank) for rank in range(1, min(len(ranks), CUTOFF) + 1))
    return {
        "ndcg_at_10": sum(map(_discount, seen)) / best,
        "mrr_at_10": 1 / min(seen) if seen else 0.0,
        "recall_at_10": len(seen) / len(ranks),
    }


def score_all(ranks: Sequence[Sequence[int]]) -> dict[str, list[float]]:
    """Return by metric the score of every query."""
    scored = [score_ranks(of_query) for of_query in ranks]
    return {metric: [scores[metric] for scores in scored] for metric in METRICS}


def chance_ndcg(num_documents: int) -> float:
    """Return the expected nDCG@10 of a random order where one document is relevant."""
    return sum(_discount(rank) for rank in range(1, min(CUTOFF, num_documents) + 1)) / num_documents


def mean_scores(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the mean over queries by metric."""
    return {metric: float(np.mean(of_queries)) for metric, of_queries in scores.items()}


def _discount(rank: int) -> float:
    return 1 / math.log2(1 + rank)


QueryScores = Mapping[str, Sequence[float]]
"""By metric, the score of every query."""


def result_of_queries(by_seed: Sequence[QueryScores], main: str, details: Mapping[str, Any]) -> TaskResult:
    """Return the means over seeds of every query's scores, with intervals over queries.

    Args:
        by_seed: for each seed, the scores of the same queries in the same order.
        main: the metric that stands for the task.
        details: what else to tell.
    """
    items = {metric: np.mean([scores[metric] for scores in by_seed], axis=0).tolist() for metric in by_seed[0]}
    means = {metric: [float(np.mean(scores[metric])) for scores in by_seed] for metric in items}
    metrics = {metric: mean_measure(of_queries) for metric, of_queries in items.items()}
    return TaskResult(metrics, main, items, {**details, **_over_seeds(means, main)})


def result_of_scores(of_seeds: Sequence[float], main: str, details: Mapping[str, Any]) -> TaskResult:
    """Return the mean over seeds of a score that has no items, so that its interval is not known."""
    measure = Measure(float(np.mean(of_seeds)), float("nan"), float("nan"))
    return TaskResult({main: measure}, main, {}, {**details, **_over_seeds({main: of_seeds}, main)})


def describe_choice(choice: RateChoice, subject: Subject) -> dict[str, Any]:
    """Return what a reader wants to know of how an embedder was made."""
    return {**choice.as_details(), "pooling": POOLING[subject.is_encoder]}


def _over_seeds(by_metric: Mapping[str, Sequence[float]], main: str) -> dict[str, Any]:
    """Return each seed's figures and their standard deviation."""
    spread = spread_over_seeds(by_metric)
    by_seed = {metric: list(told) for metric, told in by_metric.items()}
    return {"by_seed": by_seed, "seed_scores": by_seed[main], "standard_deviation_over_seeds": spread}
