"""Which tokens masked language modelling hides, and what stands in their place (BERT, arXiv 1810.04805, 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.rng import Purpose, random_streams

MASKED_SHARE = 0.8
RANDOM_SHARE = 0.1


Generators = AbstractContextManager[list[np.random.Generator]]
"""Lent for the block."""


def sample_generators(seed: int, samples: Sequence[int]) -> Generators:
    """Lend the generators of training samples: the same on every rank, new in every epoch."""
    return random_streams(seed, Purpose.TRAINING_MASK, [(sample, 0) for sample in samples])


def chunk_generators(seed: int, chunks: Sequence[tuple[int, int]]) -> Generators:
    """Lend the generators of evaluation chunks (document, index): the same in any batch, row and layout."""
    return random_streams(seed, Purpose.EVALUATION_MASK, chunks)


class Masker:
    """Chooses tokens and replaces them: 80% by [MASK], 10% by a random token, 10% by themselves.

    Each ordinary token is chosen with the same probability, whether tokens are chosen one by one, by whole words, or by
    spans.
    """

    def __init__(
        self,
        *,
        mask_id: int,
        special_ids: frozenset[int],
        num_tokens: int,
        word_starts: NDArray[np.bool_] | None = None,
        span_length: float = 0.0,
    ) -> None:
        """Prepare the table of ordinary tokens.

        Args:
            mask_id: the [MASK] token.
            special_ids: are neither chosen nor drawn as a random replacement.
            num_tokens: size of the tokenizer; rows of the embedding beyond it stand for nothing and are not drawn.
            word_starts: which token ids begin a word, to choose whole words.
            span_length: mean tokens of a span, to choose spans; 0 for single tokens.
        """
        assert word_starts is None or not span_length
        self._word_starts = word_starts
        self._span_length = span_length
        ordinary = np.ones(num_tokens, dtype=bool)
        ordinary[list(special_ids)] = False
        self._is_ordinary = ordinary
        self._ordinary_ids = np.flatnonzero(ordinary)
        self._mask_id = mask_id

    def mask(
        self,
        tokens: NDArray[np.int64],
        content: NDArray[np.bool_],
        starts: NDArray[np.integer],
        generators: Sequence[np.random.Generator],
        probability: float,
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return which tokens are scored, and ``tokens`` with these replaced; each group is drawn for by itself.

        Args:
            tokens: token ids of all groups.
            content: False at [CLS] and [SEP] that were added, which end words and spans. A group begins with one.
            starts: where each group begins, and behind the last entry the end.
            generators: of each group.
            probability: share to choose.
        """
        bounds = list(pairwise(starts.tolist()))
        draws = np.empty(len(tokens))
        for rng, (begin, end) in zip(generators, bounds, strict=True):
            rng.random(out=draws[begin:end])
        chosen = self._chosen(tokens, content, probability, draws, bounds)
        places = np.flatnonzero(chosen)
        ends = places.searchsorted(starts).tolist()
        fate = np.empty(len(places))
        drawn = np.empty(len(places), np.int64)
        for rng, (begin, end) in zip(generators, pairwise(ends), strict=True):
            rng.random(out=fate[begin:end])
            drawn[begin:end] = rng.integers(0, len(self._ordinary_ids), end - begin)
        old = tokens[places]
        kept_or_drawn = np.where(fate < MASKED_SHARE + RANDOM_SHARE, self._ordinary_ids[drawn], old)
        replaced = tokens.copy()
        replaced[places] = np.where(fate < MASKED_SHARE, self._mask_id, kept_or_drawn)
        return chosen, replaced

    def _chosen(
        self,
        tokens: NDArray[np.int64],
        content: NDArray[np.bool_],
        probability: float,
        draws: NDArray[np.float64],
        bounds: Sequence[tuple[int, int]],
    ) -> NDArray[np.bool_]:
        """Return which tokens are scored: each ordinary content token with ``probability``, at least one of a group."""
        maskable = content & self._is_ordinary[tokens]
        if self._span_length:
            chosen = maskable & _in_spans(draws, ~maskable, probability, self._span_length)
        else:
            if self._word_starts is not None:
                draws = _first_of_word(draws, maskable, self._word_starts[tokens])
            chosen = maskable & (draws < probability)
        for begin, end in bounds:
            if not chosen[begin:end].any() and maskable[begin:end].any():
                # All of the word that was nearest to be chosen.
                inside = draws[begin:end]
                chosen[begin:end] = maskable[begin:end] & (inside == inside[maskable[begin:end]].min())
        return chosen


def _first_of_word(
    draws: NDArray[np.float64], maskable: NDArray[np.bool_], begins_word: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Give every token the draw of its word's first one."""
    begins = begins_word | ~maskable
    begins[1:] |= ~maskable[:-1]
    begins[:1] = True
    return draws[np.maximum.accumulate(np.where(begins, np.arange(len(draws)), 0))]


def _in_spans(
    draws: NDArray[np.float64], breaks: NDArray[np.bool_], probability: float, mean_length: float
) -> NDArray[np.bool_]:
    """Return which positions lie in spans of a geometric length, each with ``probability``.

    A chain of two states: a span goes on with probability 1 - 1 / ``mean_length``, one begins with that which makes
    ``probability`` the share in the long run. Behind a break the chain begins anew, in its long-run state.

    Args:
        draws: uniform, one a position.
        breaks: positions that no span goes over.
        probability: share of positions in spans.
        mean_length: tokens of a span, cut short by breaks.
    """
    goes_on = 1 - 1 / mean_length
    begins = probability / (mean_length * (1 - probability)) if probability < 1 else 1.0
    assert begins <= 1 or probability == 1
    fresh = breaks.copy()
    fresh[1:] |= breaks[:-1]
    fresh[:1] = True
    # A draw below both thresholds leads into a span and one above both out of it, from either state; one between them
    # keeps the state (a span is likelier to go on than to begin) or turns it.
    low, high = min(begins, goes_on), max(begins, goes_on)
    settled = fresh | (draws < low) | (draws >= high)
    state = np.where(fresh, draws < probability, draws < low)
    latest = np.maximum.accumulate(np.where(settled, np.arange(len(draws)), 0))
    found: NDArray[np.bool_] = state[latest]
    if begins > goes_on:
        turns = (np.arange(len(draws)) - latest) % 2 == 1
        found = found ^ turns
    return found
