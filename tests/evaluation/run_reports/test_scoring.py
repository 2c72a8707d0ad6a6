"""Scores of released models against transformers' own losses, and the unigram entropy against arithmetic by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_ettin.evaluation.run_reports.scoring import ScoredChunk, score_released, unigram_entropy
from tests.evaluation.tiny_models import released_model


def test_encoder_loss_equals_transformers() -> None:
    model = released_model("encoder")
    tokens = np.array([1, 20, 4, 31, 4, 50, 2], dtype=np.uint16)
    scored, targets = np.array([2, 4]), np.array([99, 17])
    labels = torch.full((1, 7), -100)
    labels[0, scored] = torch.from_numpy(targets)
    expected = model(input_ids=torch.from_numpy(tokens.astype(np.int64))[None], labels=labels).loss.item()

    score = score_released(model, [ScoredChunk(tokens, scored, targets)])
    assert score.scored_tokens == 2
    assert score.loss == pytest.approx(expected, rel=1e-5)


def test_decoder_loss_equals_transformers() -> None:
    model = released_model("decoder")
    tokens = np.array([1, 20, 44, 31, 90, 50, 2])
    inputs = torch.from_numpy(tokens)[None]
    expected = model(input_ids=inputs, labels=inputs).loss.item()

    score = score_released(model, [ScoredChunk(tokens, np.arange(6), tokens[1:])])
    assert score.loss == pytest.approx(expected, rel=1e-5)


def test_every_scored_token_has_the_same_weight() -> None:
    model = released_model("encoder")
    short = ScoredChunk(np.array([1, 4, 2]), np.array([1]), np.array([60]))
    long = ScoredChunk(np.array([1, 4, 30, 4, 4, 2]), np.array([1, 3, 4]), np.array([7, 8, 9]))
    unscored = ScoredChunk(np.array([1, 9, 2]), np.array([], dtype=np.int64), np.array([], dtype=np.int64))
    one, three = score_released(model, [short]), score_released(model, [long])

    together = score_released(model, [short, unscored, long])
    assert together.scored_tokens == 4
    assert together.loss == pytest.approx((one.loss + 3 * three.loss) / 4)


def test_no_scored_token_is_refused() -> None:
    with pytest.raises(ValueError, match="no scored token"):
        score_released(released_model("encoder"), [])


def test_unigram_entropy_by_hand() -> None:
    # 1/2, 1/4, 1/4: 1/2 ln 2 + 1/2 ln 4
    assert unigram_entropy(np.array([7, 7, 3, 9], dtype=np.uint16)) == pytest.approx(1.5 * math.log(2))


def test_unigram_entropy_of_one_repeated_token_is_zero() -> None:
    assert unigram_entropy(np.zeros(10, dtype=np.int64)) == 0.0


@given(st.lists(st.integers(0, 9), min_size=1), st.lists(st.floats(0.01, 1.0), min_size=10, max_size=10))
def test_no_other_distribution_has_a_lower_cross_entropy(tokens: list[int], weights: list[float]) -> None:
    total = sum(weights)
    cross_entropy = -sum(math.log(weights[token] / total) for token in tokens) / len(tokens)
    assert unigram_entropy(np.array(tokens)) <= cross_entropy + 1e-9


def test_no_tokens_have_no_entropy() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        unigram_entropy(np.array([], dtype=np.int32))
