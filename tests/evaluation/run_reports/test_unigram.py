import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ettin.evaluation.run_reports.scoring import unigram_entropy


def test_by_hand() -> None:
    # 1/2, 1/4, 1/4: 1/2 ln 2 + 1/2 ln 4
    assert unigram_entropy(np.array([7, 7, 3, 9], dtype=np.uint16)) == pytest.approx(1.5 * math.log(2))


def test_one_token_over_and_over_is_certain() -> None:
    assert unigram_entropy(np.zeros(10, dtype=np.int64)) == 0.0


@given(st.lists(st.integers(0, 9), min_size=1), st.lists(st.floats(0.01, 1.0), min_size=10, max_size=10))
def test_no_other_distribution_predicts_better(tokens: list[int], weights: list[float]) -> None:
    total = sum(weights)
    cross_entropy = -sum(math.log(weights[token] / total) for token in tokens) / len(tokens)
    assert unigram_entropy(np.array(tokens)) <= cross_entropy + 1e-9


def test_nothing_has_no_entropy() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        unigram_entropy(np.array([], dtype=np.int32))
