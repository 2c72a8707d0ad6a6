"""The choice of a learning rate, which classification and retrieval share."""

from __future__ import annotations

import json
import math

from megatron_ettin.evaluation.rate_choice import RateChoice


def test_the_best_score_wins_and_of_equals_the_lowest_rate() -> None:
    assert RateChoice({3e-4: 0.75, 1e-5: 0.7, 8e-5: 0.75}).best == 8e-5
    assert RateChoice({1e-5: -0.2, 3e-5: -0.1}).best == 3e-5, "a correlation may be below 0"


def test_what_has_no_score_is_worst() -> None:
    assert RateChoice({1e-5: math.nan, 3e-5: -0.5, 8e-5: None}).best == 3e-5
    assert RateChoice({1e-5: None}).best == 1e-5


def test_the_edge_of_the_grid() -> None:
    assert RateChoice({3e-5: 0.5, 1e-5: 0.9, 8e-5: 0.5}).is_at_edge
    assert RateChoice({3e-5: 0.5, 1e-5: 0.5, 8e-5: 0.9}).is_at_edge
    assert not RateChoice({3e-5: 0.9, 1e-5: 0.5, 8e-5: 0.5}).is_at_edge
    assert not RateChoice({3e-5: 0.9}).is_at_edge, "a single rate was not chosen"


def test_what_a_result_tells_is_strict_json() -> None:
    told = RateChoice({1e-5: math.nan, 0.0003000001: 0.5}).as_details()
    assert json.loads(json.dumps(told, allow_nan=False)) == {
        "learning_rate": 0.0003000001,
        "learning_rate_at_edge_of_grid": True,
        "choice_scores": {"1e-05": None, "0.0003000001": 0.5},
    }
