"""Log-likelihoods of the variants of a sentence under encoders and decoders.

Decoder: the log-likelihood of the complete sentence after [CLS], or the token with which its tokenizer starts a text;
the end of the text is not scored.

Encoder: the log-likelihood of the words in which the variants differ, given the rest. All their tokens are masked and
then predicted from left to right, each with the earlier ones filled in and the later ones still masked. If the variants
differ in a pronoun of a single token, as almost always with the released vocabulary, this is plain mask prediction; it
remains a probability if a pronoun has several tokens or a verb changes with it (he was, they were).

Shape suffixes: B texts, S positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.suites.generative.masked_inputs import MaskedInput
from megatron_ettin.evaluation.suites.generative.masked_scorer import MaskedScorer


def score_masked(model: Any, tokenizer: Any, groups: Sequence[Sequence[str]]) -> list[list[float]]:
    """Return the log-likelihood in nats of each variant of each group under an encoder.

    Raises:
        ConfigError: the tokenizer has no token for the differing words.
    """
    targets: list[tuple[MaskedInput, int]] = []
    owners: list[tuple[int, int]] = []
    for number, variants in enumerate(groups):
        for place, (text, span) in enumerate(zip(variants, differing_spans(variants), strict=True)):
            of_variant = _masked_inputs(tokenizer, text, span)
            targets += of_variant
            owners += [(number, place)] * len(of_variant)
    totals = [[0.0] * len(variants) for variants in groups]
    scores = MaskedScorer(model, tokenizer.pad_token_id or 0).score(targets)
    for (number, place), score in zip(owners, scores, strict=True):
        totals[number][place] += score.log_prob
    return totals


@torch.inference_mode()
def score_causal(model: Any, tokenizer: Any, groups: Sequence[Sequence[str]], batch_size: int) -> list[list[float]]:
    """Return the log-likelihood in nats of each variant of each group under a decoder.

    Raises:
        ConfigError: the tokenizer has no token that starts a text.
    """
    texts = [_with_start_token(tokenizer, text) for variants in groups for text in variants]
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    scores = [0.0] * len(texts)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        for index, score in zip(batch, _log_likelihoods(model, [texts[index] for index in batch]), strict=True):
            scores[index] = score
    in_order = iter(scores)
    return [[next(in_order) for _ in variants] for variants in groups]


def differing_spans(variants: Sequence[str]) -> list[tuple[int, int]]:
    """Return for each variant the span of characters, in complete words, that contains all differences.

    The span includes the space before it, which some tokenizers attach to the word.

    >>> differing_spans(["that he was sure", "that they were sure"])
    [(4, 11), (4, 14)]
    """
    start = _common_prefix_length(variants)
    room = min(map(len, variants)) - start
    after = min(room, _common_prefix_length([variant[::-1] for variant in variants]))
    while start and variants[0][start - 1].isalnum():
        start -= 1
    if start and variants[0][start - 1] == " ":
        start -= 1
    while after and variants[0][len(variants[0]) - after].isalnum():
        after -= 1
    return [(start, len(variant) - after) for variant in variants]


def _common_prefix_length(texts: Sequence[str]) -> int:
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False)))


def tokens_in(offsets: Sequence[tuple[int, int]], span: tuple[int, int]) -> range:
    """Return the positions of the tokens that overlap a span of characters; special tokens cover no characters."""
    inside = [position for position, (start, end) in enumerate(offsets) if start < span[1] and end > span[0]]
    return range(inside[0], inside[-1] + 1) if inside else range(0)


def _masked_inputs(tokenizer: Any, text: str, span: tuple[int, int]) -> list[tuple[MaskedInput, int]]:
    """Return the model input and the target token for each token of a span."""
    encoding = tokenizer(text, return_offsets_mapping=True)
    ids: list[int] = encoding["input_ids"]
    positions = tokens_in(encoding["offset_mapping"], span)
    if not positions:
        raise ConfigError(f"the tokenizer has no token for {text[span[0] : span[1]]!r}")
    targets = []
    for position in positions:
        masked = range(position, positions.stop)
        tokens = [tokenizer.mask_token_id if other in masked else token for other, token in enumerate(ids)]
        targets.append((MaskedInput(tuple(tokens), position), ids[position]))
    return targets


def _with_start_token(tokenizer: Any, text: str) -> list[int]:
    """Return a text's tokens after the token that starts every text, without one that ends it."""
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
    if start is None:
        start = tokenizer.eos_token_id  # families such as GPT-2 start a text with the end of the previous one
    if start is None:
        raise ConfigError("the tokenizer has no token that starts a text")
    return [start, *tokenizer(text, add_special_tokens=False)["input_ids"]]


def _log_likelihoods(model: Any, texts: Sequence[Sequence[int]]) -> list[float]:
    """Return the summed log-probabilities of all tokens but the first."""
    longest = max(map(len, texts))
    tokens_BS = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=model.device)
    mask_BS = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts], device=model.device)
    logits_BSV = model(input_ids=tokens_BS, attention_mask=mask_BS).logits[:, :-1].double()
    log_probs_BS = logits_BSV.log_softmax(dim=-1).gather(-1, tokens_BS[:, 1:, None]).squeeze(-1)
    totals: list[float] = (log_probs_BS * mask_BS[:, 1:]).sum(dim=-1).tolist()
    return totals
