import numpy as np
import pytest
import torch

from megatron_ettin.evaluation.run_reports.scoring import ScoredChunk, score_released
from tests.evaluation.tiny_models import released_model


def test_encoder_loss_is_transformers_own() -> None:
    model = released_model("encoder")
    tokens = np.array([1, 20, 4, 31, 4, 50, 2], dtype=np.uint16)
    scored, right = np.array([2, 4]), np.array([99, 17])
    labels = torch.full((1, 7), -100)
    labels[0, scored] = torch.from_numpy(right)
    expected = model(input_ids=torch.from_numpy(tokens.astype(np.int64))[None], labels=labels).loss.item()

    score = score_released(model, [ScoredChunk(tokens, scored, right)])
    assert score.scored_tokens == 2
    assert score.loss == pytest.approx(expected, rel=1e-5)


def test_decoder_loss_is_transformers_own() -> None:
    model = released_model("decoder")
    tokens = np.array([1, 20, 44, 31, 90, 50, 2])
    inputs = torch.from_numpy(tokens)[None]
    expected = model(input_ids=inputs, labels=inputs).loss.item()

    score = score_released(model, [ScoredChunk(tokens, np.arange(6), tokens[1:])])
    assert score.loss == pytest.approx(expected, rel=1e-5)


def test_every_scored_token_counts_the_same() -> None:
    model = released_model("encoder")
    short = ScoredChunk(np.array([1, 4, 2]), np.array([1]), np.array([60]))
    long = ScoredChunk(np.array([1, 4, 30, 4, 4, 2]), np.array([1, 3, 4]), np.array([7, 8, 9]))
    nothing = ScoredChunk(np.array([1, 9, 2]), np.array([], dtype=np.int64), np.array([], dtype=np.int64))
    one, three = score_released(model, [short]), score_released(model, [long])

    together = score_released(model, [short, nothing, long])
    assert together.scored_tokens == 4
    assert together.loss == pytest.approx((one.loss + 3 * three.loss) / 4)


def test_no_scored_token_is_refused() -> None:
    with pytest.raises(ValueError, match="no scored token"):
        score_released(released_model("encoder"), [])
