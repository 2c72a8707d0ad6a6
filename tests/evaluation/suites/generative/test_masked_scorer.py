"""Batched scores and generation match one forward pass per token."""

from __future__ import annotations

import math
import random

import pytest
import torch

from megatron_ettin.evaluation.suites.generative import masked_scorer
from megatron_ettin.evaluation.suites.generative.masked_inputs import MaskedInput, MaskedInputBuilder
from megatron_ettin.evaluation.suites.generative.masked_scorer import MaskedScorer, Prompt, Target, generate
from tests.evaluation.suites.generative.tiny import CLS, MASK, PAD, SEP, left_to_right, log_prob, pseudo, tokens_of
from tests.evaluation.tiny_models import released_model, tokenizer

Pair = tuple[list[int], list[int]]


def texts(seed: int = 0) -> list[Pair]:
    """Return contexts and continuations of many lengths; two share a context, and one occurs twice."""
    drawn = random.Random(seed)

    def some(count: int) -> list[int]:
        return [drawn.randrange(5, 128) for _ in range(count)]

    lengths = [(0, 1), (0, 9), (3, 4), (17, 2), (40, 30), (1, 1)]
    pairs = [(some(context), some(continuation)) for context, continuation in lengths]
    shared = some(12)
    return [*pairs, (shared, some(5)), (shared, some(5)), pairs[2]]


def scorer(tokens_per_batch: int) -> MaskedScorer:
    return MaskedScorer(released_model("encoder"), PAD, tokens_per_batch)


def builder(future_masks: int = 0) -> MaskedInputBuilder:
    return MaskedInputBuilder(CLS, SEP, MASK, max_positions=512, future_masks=future_masks)


def sums(pairs: list[Pair], inputs: list[list[MaskedInput]], tokens_per_batch: int) -> list[float]:
    """Return the log-likelihood of each continuation, given the inputs of its tokens."""
    targets: list[Target] = []
    for of_pair, (_, continuation) in zip(inputs, pairs, strict=True):
        targets += zip(of_pair, continuation, strict=True)
    scores = iter(scorer(tokens_per_batch).score(targets))
    return [sum(next(scores).log_prob for _ in continuation) for _, continuation in pairs]


@pytest.mark.parametrize("tokens_per_batch", [1, 100, 4096])
@pytest.mark.parametrize("future_masks", [0, 2])
def test_left_to_right_matches_one_token_at_a_time(tokens_per_batch: int, future_masks: int) -> None:
    pairs = texts()
    inputs = [list(builder(future_masks).left_to_right(*pair)) for pair in pairs]
    expected = [left_to_right(released_model("encoder"), *pair, future_masks) for pair in pairs]
    assert sums(pairs, inputs, tokens_per_batch) == pytest.approx(expected, rel=0, abs=1e-5)


@pytest.mark.parametrize("tokens_per_batch", [1, 100, 4096])
def test_pseudo_log_likelihood_matches_one_token_at_a_time(tokens_per_batch: int) -> None:
    pairs = texts(seed=1)
    inputs = [list(builder().full_context(*pair)) for pair in pairs]
    expected = [pseudo(released_model("encoder"), *pair) for pair in pairs]
    assert sums(pairs, inputs, tokens_per_batch) == pytest.approx(expected, rel=0, abs=1e-5)


def test_window_and_row_sizes_do_not_change_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = texts()
    inputs = [list(builder().left_to_right(*pair)) for pair in pairs]
    expected = sums(pairs, inputs, 4096)
    monkeypatch.setattr(masked_scorer, "_WINDOW_TOKENS", 50)
    monkeypatch.setattr(masked_scorer, "_LOGIT_ROWS", 3)
    assert sums(pairs, inputs, 4096) == pytest.approx(expected, abs=1e-5)


def test_prediction_has_the_highest_logit() -> None:
    inputs = [builder().next_token(context) for context, _ in texts()]
    predictions = scorer(200).predict(inputs)
    for masked, prediction in zip(inputs, predictions, strict=True):
        every = [log_prob(released_model("encoder"), masked.tokens, masked.position, token) for token in range(128)]
        assert every[prediction] == max(every)
        best, other = scorer(200).score([(masked, prediction), (masked, (prediction + 1) % 128)])
        assert (best.is_best, other.is_best) == (True, False)


def test_scores_are_a_distribution_over_the_vocabulary() -> None:
    masked = builder().next_token([10, 11, 12])
    scores = scorer(64).score([(masked, token) for token in range(128)])
    assert math.fsum(math.exp(score.log_prob) for score in scores) == pytest.approx(1, abs=1e-5)


def test_equal_inputs_run_once() -> None:
    model = released_model("encoder")
    rows: list[int] = []
    handle = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    try:
        scorer(4096).score([(builder().next_token([10, 11]), token) for token in (20, 21, 22)])
    finally:
        handle.remove()
    assert rows == [1]


def test_progress_counts_targets() -> None:
    targets: list[Target] = []
    for context, continuation in texts():
        targets += zip(builder().left_to_right(context, continuation), continuation, strict=True)
    counts: list[int] = []
    scorer(100).score(targets, counts.append)
    assert counts == sorted(counts)
    assert counts[-1] == len(targets)


def test_no_targets() -> None:
    assert scorer(100).score([]) == []
    assert scorer(100).predict([]) == []


TEXTS = ["the quick", "", "over the lazy dog and the", "cat", "the quick brown fox jumps over"]


def decode(ids: list[int]) -> str:
    return str(tokenizer().decode(ids, skip_special_tokens=True))


def generate_one(text: str, stops: list[str], max_new_tokens: int) -> list[int]:
    """Return the greedy continuation of one text, without batching."""
    model, tokens, continuation = released_model("encoder"), tokens_of(text), list[int]()
    while len(continuation) < max_new_tokens:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[CLS, *tokens, *continuation, MASK, SEP]])).logits[0]
        token = int(logits[1 + len(tokens) + len(continuation)].argmax())
        if token == SEP:
            break
        continuation.append(token)
        if any(stop in decode(continuation) for stop in stops):
            break
    return continuation


@pytest.mark.parametrize("stops", [[], list("aeiou"), ["the", "o"]])
def test_generation_matches_one_text_at_a_time(stops: list[str]) -> None:
    prompts = [Prompt(tokens_of(text), stops, limit) for limit, text in enumerate(TEXTS, start=4)]
    continuations = generate(scorer(100), builder(), prompts, decode)
    assert continuations == [generate_one(text, stops, limit) for limit, text in enumerate(TEXTS, start=4)]
    assert any(continuations)


def test_no_new_tokens_are_generated_with_a_limit_of_zero() -> None:
    assert generate(scorer(100), builder(), [Prompt([10], [], 0)], decode) == [[]]


def test_sep_ends_a_text() -> None:
    class EndsLongTexts(MaskedScorer):
        def predict(self, inputs):  # type: ignore[no-untyped-def]
            return [SEP if len(masked.tokens) > 5 else 10 for masked in inputs]

    prompts = [Prompt([20], [], 9), Prompt([20, 21, 22], [], 9)]
    ends_long_texts = EndsLongTexts(released_model("encoder"), PAD, 100)
    assert generate(ends_long_texts, builder(), prompts, decode) == [[10, 10], []]
