"""Ranking metrics against values by hand, scikit-learn, and pytrec_eval, which mteb uses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from megatron_ettin.evaluation.suites.retrieval.ranking import chance_ndcg, rank_relevant, score_all, score_ranks


def directions(shape: tuple[int, int], seed: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("ranks", "ndcg", "reciprocal", "recall"),
    [
        ([1], 1.0, 1.0, 1.0),
        ([2], 1 / math.log2(3), 0.5, 1.0),
        ([3], 0.5, 1 / 3, 1.0),
        ([10], 1 / math.log2(11), 0.1, 1.0),
        ([11], 0.0, 0.0, 0.0),
        ([1, 3], (1 + 0.5) / (1 + 1 / math.log2(3)), 1.0, 1.0),
        ([2, 40], (1 / math.log2(3)) / (1 + 1 / math.log2(3)), 0.5, 0.5),
    ],
)
def test_scores_of_ranks_by_hand(ranks: Sequence[int], ndcg: float, reciprocal: float, recall: float) -> None:
    expected = {"ndcg_at_10": ndcg, "mrr_at_10": reciprocal, "recall_at_10": recall}
    assert score_ranks(ranks) == pytest.approx(expected)


def test_ranks_by_hand() -> None:
    documents = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    queries = np.array([[1, 0], [0, 1], [0, 1]], dtype=np.float32)
    assert rank_relevant(queries, documents, [[0], [0], [2, 0]]) == [[1], [3], [2, 3]]


@pytest.mark.slow  # needs the extra [eval]
@pytest.mark.parametrize("num_relevant", [1, 4, 15])
def test_metrics_match_scikit_learn_and_pytrec_eval(num_relevant: int) -> None:
    import pytrec_eval
    from sklearn import metrics

    queries, documents = directions((300, 8), 1), directions((60, 8), 2)
    rng = np.random.default_rng(3)
    relevant = [sorted(rng.choice(60, num_relevant, replace=False).tolist()) for _ in queries]
    scores = score_all(rank_relevant(queries, documents, relevant))

    similarities = queries @ documents.T
    gains = np.zeros_like(similarities)
    for row, indices in enumerate(relevant):
        gains[row, indices] = 1
    expected = [metrics.ndcg_score(gains[i : i + 1], similarities[i : i + 1], k=10) for i in range(len(queries))]
    np.testing.assert_allclose(scores["ndcg_at_10"], expected, atol=1e-6)

    run = {str(q): {str(d): float(s) for d, s in enumerate(row)} for q, row in enumerate(similarities)}
    truth = {str(q): {str(d): 1 for d in indices} for q, indices in enumerate(relevant)}
    results = pytrec_eval.RelevanceEvaluator(truth, {"ndcg_cut.10", "recall.10", "recip_rank"}).evaluate(run)
    for q in range(len(queries)):
        theirs = results[str(q)]
        assert scores["ndcg_at_10"][q] == pytest.approx(theirs["ndcg_cut_10"], abs=1e-6)
        assert scores["recall_at_10"][q] == pytest.approx(theirs["recall_10"])
        within_ten = theirs["recip_rank"] if theirs["recip_rank"] >= 0.1 else 0.0
        assert scores["mrr_at_10"][q] == pytest.approx(within_ten)


def test_ties_are_pessimistic() -> None:
    equal = np.tile(directions((1, 4), 1), (12, 1))
    assert rank_relevant(equal[:1], equal, [[0]]) == [[12]]
    # A difference within float32 rounding is a tie too; a larger one is not.
    near = equal.copy()
    near[0] *= 1 + 3e-7
    near[5:] *= 0.9
    assert rank_relevant(equal[:1], near, [[0]]) == [[5]]


def test_diverged_model_ranks_last() -> None:
    diverged = np.full((30, 4), np.nan, dtype=np.float32)
    assert rank_relevant(diverged[:2], diverged, [[0], [1, 2]]) == [[30], [29, 30]]
    assert rank_relevant(directions((1, 4), 1), diverged, [[0]]) == [[30]]


def test_chance_is_the_mean_over_all_ranks() -> None:
    for num_documents in (2, 10, 57):
        every = [score_ranks([rank])["ndcg_at_10"] for rank in range(1, num_documents + 1)]
        assert chance_ndcg(num_documents) == pytest.approx(sum(every) / num_documents)
