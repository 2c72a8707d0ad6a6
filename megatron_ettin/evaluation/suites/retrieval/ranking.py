"""Ranking metrics (nDCG@10, MRR@10, recall@10), and task results built from them.

Shape suffixes: Q queries, N documents, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.evaluation.results import Measure, TaskResult
from megatron_ettin.evaluation.statistics import mean_measure, spread_over_seeds

CUTOFF = 10
METRICS = ("ndcg_at_10", "mrr_at_10", "recall_at_10")
"""By mteb's names; the first is the primary metric."""
TIE = 1e-6
"""Similarities that differ by less count as equal: below, float32 rounding depends on the padding of a batch."""

_QUERIES_AT_A_TIME = 256

QueryScores = Mapping[str, Sequence[float]]
"""By metric, the score of every query."""


def rank_relevant(
    queries_QD: NDArray[np.float32], documents_ND: NDArray[np.float32], relevant: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Return the ranks, from 1, of each query's relevant documents among all documents, best first.

    Ties are pessimistic: an irrelevant document ranks above a relevant one of equal similarity, so a model that embeds
    all texts alike, or has diverged to NaN, finds nothing.

    Args:
        queries_QD: embeddings of unit length.
        documents_ND: embeddings of the documents, likewise.
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
    relevant = -np.sort(-scores_N[indices])  # NaN is last
    # Count the documents that are not clearly worse, so that NaN ranks above.
    return [place + int((~(others < score - TIE)).sum()) for place, score in enumerate(relevant, start=1)]


def score_ranks(ranks: Sequence[int]) -> dict[str, float]:
    """Return the metrics of one query from the ranks of its relevant documents.

    nDCG (Järvelin and Kekäläinen 2002) has gain 1 for a relevant document and discount log2(1 + rank). With one
    relevant document it is 1 / log2(1 + rank) up to rank 10, and 0 beyond.
    """
    hits = [rank for rank in ranks if rank <= CUTOFF]
    ideal = sum(_discount(rank) for rank in range(1, min(len(ranks), CUTOFF) + 1))
    return {
        "ndcg_at_10": sum(map(_discount, hits)) / ideal,
        "mrr_at_10": 1 / min(hits) if hits else 0.0,
        "recall_at_10": len(hits) / len(ranks),
    }


def score_all(ranks: Sequence[Sequence[int]]) -> dict[str, list[float]]:
    """Return by metric the score of every query."""
    scored = [score_ranks(of_query) for of_query in ranks]
    return {metric: [scores[metric] for scores in scored] for metric in METRICS}


def chance_ndcg(num_documents: int) -> float:
    """Return the expected nDCG@10 of a random ranking with one relevant document."""
    return sum(_discount(rank) for rank in range(1, min(CUTOFF, num_documents) + 1)) / num_documents


def mean_scores(scores: QueryScores) -> dict[str, float]:
    """Return the mean over queries by metric."""
    return {metric: float(np.mean(of_queries)) for metric, of_queries in scores.items()}


def _discount(rank: int) -> float:
    return 1 / math.log2(1 + rank)


def result_of_queries(by_seed: Sequence[QueryScores], main: str, details: Mapping[str, Any]) -> TaskResult:
    """Return a result from per-query scores: means over seeds, with intervals over queries.

    Args:
        by_seed: for each seed, the scores of the same queries in the same order.
        main: the primary metric.
        details: further details of the result.
    """
    items = {metric: np.mean([scores[metric] for scores in by_seed], axis=0).tolist() for metric in by_seed[0]}
    means = {metric: [float(np.mean(scores[metric])) for scores in by_seed] for metric in items}
    metrics = {metric: mean_measure(of_queries) for metric, of_queries in items.items()}
    return TaskResult(metrics, main, items, {**details, **_over_seeds(means, main)})


def result_of_scores(of_seeds: Sequence[float], main: str, details: Mapping[str, Any]) -> TaskResult:
    """Return a result from one score per seed; without item scores there is no interval."""
    measure = Measure(float(np.mean(of_seeds)), float("nan"), float("nan"))
    return TaskResult({main: measure}, main, {}, {**details, **_over_seeds({main: of_seeds}, main)})


def _over_seeds(by_metric: Mapping[str, Sequence[float]], main: str) -> dict[str, Any]:
    """Return the scores of each seed and their standard deviation."""
    by_seed = {metric: list(scores) for metric, scores in by_metric.items()}
    spread = spread_over_seeds(by_metric)
    return {"by_seed": by_seed, "seed_scores": by_seed[main], "standard_deviation_over_seeds": spread}
