"""Selection of the learning rate, shared by classification and retrieval."""

from __future__ import annotations

import json
import math

from megatron_ettin.evaluation.suites.fine_tuning import RateSelection


def test_best_score_wins_and_lowest_rate_of_a_tie() -> None:
    assert RateSelection({3e-4: 0.75, 1e-5: 0.7, 8e-5: 0.75}).best == 8e-5
    assert RateSelection({1e-5: -0.2, 3e-5: -0.1}).best == 3e-5, "correlations may be negative"


def test_missing_scores_rank_last() -> None:
    assert RateSelection({1e-5: math.nan, 3e-5: -0.5, 8e-5: None}).best == 3e-5
    assert RateSelection({1e-5: None}).best == 1e-5


def test_edge_of_the_grid() -> None:
    assert RateSelection({3e-5: 0.5, 1e-5: 0.9, 8e-5: 0.5}).is_at_edge
    assert RateSelection({3e-5: 0.5, 1e-5: 0.5, 8e-5: 0.9}).is_at_edge
    assert not RateSelection({3e-5: 0.9, 1e-5: 0.5, 8e-5: 0.5}).is_at_edge
    assert not RateSelection({3e-5: 0.9}).is_at_edge, "a single rate is not a selection"


def test_details_are_strict_json() -> None:
    details = RateSelection({1e-5: math.nan, 0.0003000001: 0.5}).as_details()
    assert json.loads(json.dumps(details, allow_nan=False)) == {
        "learning_rate": 0.0003000001,
        "learning_rate_at_edge_of_grid": True,
        "choice_scores": {"1e-05": None, "0.0003000001": 0.5},
    }
