"""Greedy continuation of texts by a masked language model: guess the token after the text, append it, begin again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megatron_ettin.evaluation.suites.generative.masked_frames import Frame
from megatron_ettin.evaluation.suites.generative.masked_scorer import MaskedScorer


@dataclass(frozen=True)
class Prompt:
    """A text to continue."""

    tokens: Sequence[int]
    """Without special tokens."""
    stops: Sequence[str]
    """The continuation ends where its text holds one of these; ``""`` stops nothing."""
    most_tokens: int


def generate(
    scorer: MaskedScorer,
    frame: Frame,
    prompts: Sequence[Prompt],
    decode: Callable[[list[int]], str],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[int]]:
    """Return the tokens that continue each prompt, a stop among them but not [SEP], which ends a text too.

    All prompts go forward together, a token at a time; those that ended leave the batch.
    """
    endings: list[list[int]] = [[] for _ in prompts]
    going = [index for index, prompt in enumerate(prompts) if prompt.most_tokens > 0]
    while going:
        guesses = scorer.guess([frame.next_token([*prompts[i].tokens, *endings[i]]) for i in going])
        for index, token in zip(going, guesses, strict=True):
            if token != frame.sep:
                endings[index].append(token)
        goes_on = [token != frame.sep for token in guesses]
        going = [
            index
            for index, is_open in zip(going, goes_on, strict=True)
            if is_open and not _has_ended(prompts[index], endings[index], decode)
        ]
        on_progress(len(prompts) - len(going), len(prompts))
    return endings


def _has_ended(prompt: Prompt, ending: list[int], decode: Callable[[list[int]], str]) -> bool:
    if len(ending) >= prompt.most_tokens:
        return True
    text = decode(ending)
    return any(stop and stop in text for stop in prompt.stops)
