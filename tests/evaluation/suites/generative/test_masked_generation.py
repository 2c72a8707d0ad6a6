"""Batched greedy generation is that of one text after the other."""

from __future__ import annotations

import pytest
import torch

from megatron_ettin.evaluation.suites.generative.encoder_lm import Prompt, generate
from megatron_ettin.evaluation.suites.generative.masked_frames import Frame
from megatron_ettin.evaluation.suites.generative.masked_scorer import MaskedScorer
from tests.evaluation.suites.generative.tiny import CLS, MASK, PAD, SEP, tokens_of
from tests.evaluation.tiny_models import released_model, tokenizer

TEXTS = ["the quick", "", "over the lazy dog and the", "cat", "the quick brown fox jumps over"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def decode(ids: list[int]) -> str:
    return str(tokenizer().decode(ids, skip_special_tokens=True))


def one_after_the_other(text: str, stops: list[str], most: int) -> list[int]:
    model, tokens, ending = released_model("encoder"), tokens_of(text), list[int]()
    while len(ending) < most:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[CLS, *tokens, *ending, MASK, SEP]])).logits[0]
        token = int(logits[1 + len(tokens) + len(ending)].argmax())
        if token == SEP:
            break
        ending.append(token)
        if any(stop in decode(ending) for stop in stops):
            break
    return ending


@pytest.mark.parametrize("stops", [[], list("aeiou"), ["the", "o"]])
def test_same_tokens_as_one_after_the_other(stops: list[str]) -> None:
    scorer = MaskedScorer(released_model("encoder"), PAD, 100)
    prompts = [Prompt(tokens_of(text), stops, most) for most, text in enumerate(TEXTS, start=4)]
    found = generate(scorer, Frame(CLS, SEP, MASK, max_positions=64), prompts, decode)
    expected = [one_after_the_other(text, stops, most) for most, text in enumerate(TEXTS, start=4)]
    assert found == expected
    assert any(expected)


def test_nothing_is_generated_where_nothing_may_be() -> None:
    scorer = MaskedScorer(released_model("encoder"), PAD, 100)
    assert generate(scorer, Frame(CLS, SEP, MASK, max_positions=64), [Prompt([10], [], 0)], decode) == [[]]


def test_sep_ends_a_text() -> None:
    class Ending(MaskedScorer):
        def guess(self, holes):  # type: ignore[no-untyped-def]
            return [SEP if len(hole.tokens) > 5 else 10 for hole in holes]

    scorer = Ending(released_model("encoder"), PAD, 100)
    prompts = [Prompt([20], [], 9), Prompt([20, 21, 22], [], 9)]
    assert generate(scorer, Frame(CLS, SEP, MASK, max_positions=64), prompts, decode) == [[10, 10], []]
