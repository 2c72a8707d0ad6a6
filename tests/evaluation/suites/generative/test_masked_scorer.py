"""Batched scores are those of one forward pass per token."""

from __future__ import annotations

import math
import random

import pytest

from megatron_ettin.evaluation.suites.generative import masked_scorer
from megatron_ettin.evaluation.suites.generative.masked_frames import Frame, Hole
from megatron_ettin.evaluation.suites.generative.masked_scorer import MaskedScorer
from tests.evaluation.suites.generative.tiny import CLS, MASK, PAD, SEP, left_to_right, log_prob, pseudo
from tests.evaluation.tiny_models import released_model

Pair = tuple[list[int], list[int]]


def texts(seed: int = 0) -> list[Pair]:
    """Contexts from none to long, endings of one token and more, two with the same context, one twice."""
    drawn = random.Random(seed)

    def some(count: int) -> list[int]:
        return [drawn.randrange(5, 128) for _ in range(count)]

    found = [(some(context), some(ending)) for context, ending in [(0, 1), (0, 9), (3, 4), (17, 2), (40, 30), (1, 1)]]
    shared = some(12)
    return [*found, (shared, some(5)), (shared, some(5)), found[2]]


def scorer(tokens_per_batch: int) -> MaskedScorer:
    return MaskedScorer(released_model("encoder"), PAD, tokens_per_batch)


def frame(future_masks: int = 0) -> Frame:
    return Frame(CLS, SEP, MASK, max_positions=512, future_masks=future_masks)


def sums(pairs: list[Pair], holes: list[list[Hole]], tokens_per_batch: int) -> list[float]:
    asked = [(hole, token) for of_pair, (_, ending) in zip(holes, pairs, strict=True)
             for hole, token in zip(of_pair, ending, strict=True)]  # fmt: skip
    scores = iter(scorer(tokens_per_batch).score(asked))
    return [sum(next(scores).log_prob for _ in ending) for _, ending in pairs]


@pytest.mark.parametrize("tokens_per_batch", [1, 100, 4096])
@pytest.mark.parametrize("future_masks", [0, 2])
def test_left_to_right_equals_one_at_a_time(tokens_per_batch: int, future_masks: int) -> None:
    pairs = texts()
    holes = [list(frame(future_masks).left_to_right(*pair)) for pair in pairs]
    expected = [left_to_right(released_model("encoder"), *pair, future_masks) for pair in pairs]
    assert sums(pairs, holes, tokens_per_batch) == pytest.approx(expected, rel=0, abs=1e-5)


@pytest.mark.parametrize("tokens_per_batch", [1, 100, 4096])
def test_pseudo_log_likelihood_equals_a_plain_loop(tokens_per_batch: int) -> None:
    pairs = texts(seed=1)
    holes = [list(frame().all_in_sight(*pair)) for pair in pairs]
    expected = [pseudo(released_model("encoder"), *pair) for pair in pairs]
    assert sums(pairs, holes, tokens_per_batch) == pytest.approx(expected, rel=0, abs=1e-5)


def test_small_windows_and_few_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = texts()
    holes = [list(frame().left_to_right(*pair)) for pair in pairs]
    whole = sums(pairs, holes, 4096)
    monkeypatch.setattr(masked_scorer, "_WINDOW_TOKENS", 50)
    monkeypatch.setattr(masked_scorer, "_LOGIT_ROWS", 3)
    assert sums(pairs, holes, 4096) == pytest.approx(whole, abs=1e-5)


def test_guess_is_the_token_of_the_highest_logit_and_is_best_says_so() -> None:
    holes = [frame().next_token(context) for context, _ in texts()]
    guesses = scorer(200).guess(holes)
    for hole, guess in zip(holes, guesses, strict=True):
        every = [log_prob(released_model("encoder"), hole.tokens, hole.position, token) for token in range(128)]
        assert every[guess] == max(every)
        best, other = scorer(200).score([(hole, guess), (hole, (guess + 1) % 128)])
        assert (best.is_best, other.is_best) == (True, False)


def test_each_hole_is_a_distribution_over_the_vocabulary() -> None:
    hole = frame().next_token([10, 11, 12])
    scores = scorer(64).score([(hole, token) for token in range(128)])
    assert math.fsum(math.exp(score.log_prob) for score in scores) == pytest.approx(1, abs=1e-5)


def test_equal_holes_are_run_once() -> None:
    model = released_model("encoder")
    rows: list[int] = []
    handle = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    try:
        scorer(4096).score([(frame().next_token([10, 11]), token) for token in (20, 21, 22)])
    finally:
        handle.remove()
    assert rows == [1]


def test_progress_counts_tokens_asked_for() -> None:
    asked = [(hole, token) for context, ending in texts()
             for hole, token in zip(frame().left_to_right(context, ending), ending, strict=True)]  # fmt: skip
    told: list[int] = []
    scorer(100).score(asked, told.append)
    assert told == sorted(told)
    assert told[-1] == len(asked)


def test_nothing_asked() -> None:
    assert scorer(100).score([]) == []
    assert scorer(100).guess([]) == []
