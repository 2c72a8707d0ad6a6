"""How likely a model finds each variant of a sentence.

A decoder: the log-likelihood of the whole sentence after [CLS] or what its tokenizer begins a text with; where a text
ends is not scored.

An encoder: that of the words in which the variants differ, given the rest. All their tokens are masked and then guessed
from left to right, each with those before it filled in and those after it still masked. Where they differ in a pronoun
of one token, as nearly everywhere with the released vocabulary, that is plain mask prediction; it stays a probability
where a pronoun has several tokens or a verb changes with it (he was, they were).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import torch

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.suites.generative.masked_frames import Hole
from megatron_ettin.evaluation.suites.generative.masked_scorer import MaskedScorer


def differing_spans(variants: Sequence[str]) -> list[tuple[int, int]]:
    """Return for each variant the characters, whole words, from the first to the last in which they differ.

    The space before them is among them: to some tokenizers it belongs to the word, to others, for some words, not.

    >>> differing_spans(["that he was sure", "that they were sure"])
    [(4, 11), (4, 14)]
    """
    start = _num_common(variants)
    room = min(map(len, variants)) - start
    after = min(room, _num_common([variant[::-1] for variant in variants]))
    while start and variants[0][start - 1].isalnum():
        start -= 1
    if start and variants[0][start - 1] == " ":
        start -= 1
    while after and variants[0][len(variants[0]) - after].isalnum():
        after -= 1
    return [(start, len(variant) - after) for variant in variants]


def _num_common(texts: Sequence[str]) -> int:
    """Return how many characters all texts begin with alike."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False)))


def tokens_in(offsets: Sequence[tuple[int, int]], span: tuple[int, int]) -> range:
    """Return the positions of the tokens that hold any character of a span; special tokens hold none."""
    held = [position for position, (start, end) in enumerate(offsets) if start < span[1] and end > span[0]]
    return range(held[0], held[-1] + 1) if held else range(0)


Score = Callable[[Sequence[Sequence[str]]], list[list[float]]]
"""From groups of variants to the log-likelihood in nats of each variant."""


def score_masked(model: Any, tokenizer: Any, groups: Sequence[Sequence[str]]) -> list[list[float]]:
    """Return each variant's log-likelihood under an encoder."""
    holes: list[tuple[Hole, int]] = []
    owners: list[tuple[int, int]] = []
    for number, variants in enumerate(groups):
        for place, (text, span) in enumerate(zip(variants, differing_spans(variants), strict=True)):
            found = _holes(tokenizer, text, span)
            holes += found
            owners += [(number, place)] * len(found)
    totals = [[0.0] * len(variants) for variants in groups]
    scores = MaskedScorer(model, tokenizer.pad_token_id or 0).score(holes)
    for (number, place), score in zip(owners, scores, strict=True):
        totals[number][place] += score.log_prob
    return totals


def _holes(tokenizer: Any, text: str, span: tuple[int, int]) -> list[tuple[Hole, int]]:
    """Return what the model is shown, and the right token, for each token of a span."""
    told = tokenizer(text, return_offsets_mapping=True)
    ids: list[int] = told["input_ids"]
    positions = tokens_in(told["offset_mapping"], span)
    if not positions:
        raise ConfigError(f"the tokenizer has no token for {text[span[0] : span[1]]!r}")
    found = []
    for position in positions:
        later = range(position, positions.stop)
        shown = [tokenizer.mask_token_id if other in later else token for other, token in enumerate(ids)]
        found.append((Hole(tuple(shown), position), ids[position]))
    return found


@torch.inference_mode()
def score_causal(model: Any, tokenizer: Any, groups: Sequence[Sequence[str]], batch_size: int) -> list[list[float]]:
    """Return each variant's log-likelihood under a decoder."""
    texts = [_with_beginning(tokenizer, text) for variants in groups for text in variants]
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    found = [0.0] * len(texts)
    for start in range(0, len(order), batch_size):
        chunk = order[start : start + batch_size]
        for index, score in zip(chunk, _log_likelihoods(model, [texts[index] for index in chunk]), strict=True):
            found[index] = score
    scores = iter(found)
    return [[next(scores) for _ in variants] for variants in groups]


def _with_beginning(tokenizer: Any, text: str) -> list[int]:
    """Return a text's tokens behind the one that begins every text, without one that ends it."""
    beginning = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
    if beginning is None:
        beginning = tokenizer.eos_token_id  # families such as GPT-2 begin a text with what ended the one before
    if beginning is None:
        raise ConfigError("the tokenizer has no token that begins a text")
    return [beginning, *tokenizer(text, add_special_tokens=False)["input_ids"]]


def _log_likelihoods(model: Any, texts: Sequence[Sequence[int]]) -> list[float]:
    """Return the summed log-probabilities of all tokens but the first. Shapes: B texts, S positions, V vocabulary."""
    longest = max(map(len, texts))
    tokens_BS = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=model.device)
    real_BS = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts], device=model.device)
    logits_BSV = model(input_ids=tokens_BS, attention_mask=real_BS).logits[:, :-1].double()
    chosen_BS = logits_BSV.log_softmax(dim=-1).gather(-1, tokens_BS[:, 1:, None]).squeeze(-1)
    totals: list[float] = (chosen_BS * real_BS[:, 1:]).sum(dim=-1).tolist()
    return totals
