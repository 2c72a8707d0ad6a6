"""Samples of a released model: the guesses for a masked token, or a continuation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class FilledMask:
    """An encoder's guesses for a masked token."""

    text: str
    """The text with the mask token."""
    hidden: str
    """The token that was masked."""
    guesses: tuple[tuple[str, float], ...]
    """The most probable tokens with their probabilities, best first."""

    def __str__(self) -> str:
        guesses = ", ".join(f"{token!r} {probability:.2f}" for token, probability in self.guesses)
        return f"{self.text!r}\n  [MASK] was {self.hidden!r}; guesses: {guesses}"


@dataclass(frozen=True)
class Continuation:
    """A decoder's continuation of a text."""

    prompt: str
    text: str

    def __str__(self) -> str:
        return f"{self.prompt!r}\n  continues: {self.text!r}"


@torch.inference_mode()
def fill_mask(model: Any, tokenizer: Any, tokens: Sequence[int], masked: int, *, num_guesses: int = 5) -> FilledMask:
    """Mask one token of a text and return the model's guesses.

    The text is encoded with the released tokenizer, as a user's text is.

    Args:
        model: a masked language model from ``transformers``.
        tokenizer: its tokenizer.
        tokens: ids of the text, without special tokens.
        masked: index of the token to mask.
        num_guesses: number of guesses.
    """
    before, after = tokenizer.decode(tokens[:masked]), tokenizer.decode(tokens[masked + 1 :])
    text = f"{before}{tokenizer.mask_token}{after}"
    encoded = tokenizer(text, return_tensors="pt")
    place = (encoded["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0, 0]
    probabilities = model(**encoded).logits[0, place].softmax(dim=-1)
    best = probabilities.topk(num_guesses)
    guesses = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return FilledMask(
        text=text,
        hidden=tokenizer.decode([tokens[masked]]),
        guesses=tuple((tokenizer.decode([token]), probability) for token, probability in guesses),
    )


def word_to_mask(tokenizer: Any, tokens: Sequence[int]) -> int:
    """Return the index of the token nearest to the middle that is a word of three letters or more.

    If there is none, return the middle.
    """
    middle = len(tokens) // 2
    by_distance = sorted(range(len(tokens)), key=lambda index: abs(index - middle))
    for index in by_distance:
        word = tokenizer.decode([tokens[index]])
        if word.startswith(" ") and len(word) > 3 and word[1:].isalpha():
            return index
    return middle


def continue_text(
    model: Any, tokenizer: Any, prompt: str, *, num_tokens: int = 24, temperature: float = 0.7, seed: int = 0
) -> Continuation:
    """Sample a continuation of a text; equal seeds give equal continuations."""
    encoded = tokenizer(prompt, return_tensors="pt")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        written = model.generate(
            **encoded, max_new_tokens=num_tokens, do_sample=True, temperature=temperature, top_k=20
        )
    new = written[0, encoded["input_ids"].shape[1] :]
    return Continuation(prompt, tokenizer.decode(new, skip_special_tokens=True))
