"""Masking for masked language modelling: which tokens are hidden, and by what (BERT, arXiv 1810.04805, 3.1)."""

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


def sample_generators(seed: int, samples: Sequence[int], phase: int = 0) -> Generators:
    """Lend the generators of training samples: the same on every rank, new in every epoch and every phase."""
    return random_streams(seed, Purpose.TRAINING_MASK, [(sample, phase) for sample in samples])


def chunk_generators(seed: int, chunks: Sequence[tuple[int, int]]) -> Generators:
    """Lend the generators of evaluation chunks (document, index): the same in any batch, row and layout."""
    return random_streams(seed, Purpose.EVALUATION_MASK, chunks)


class Masker:
    """Chooses tokens and replaces 80% of them with [MASK] and 10% with a random token; 10% stay.

    Every ordinary token is chosen with the same probability, whether tokens are chosen singly, by whole words or by
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
            special_ids: tokens that are neither chosen nor drawn as a replacement.
            num_tokens: size of the tokenizer; padding rows of the embedding are never drawn.
            word_starts: which token ids start a word, to choose whole words.
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
        """Return which tokens are scored, and ``tokens`` with these replaced; each group has its own generator.

        Args:
            tokens: token ids of all groups.
            content: False at the [CLS] and [SEP] that were added, which end words and spans. A group starts with one.
            starts: start of each group, and the end of the last.
            generators: one per group.
            probability: of a token to be chosen.
        """
        bounds = list(pairwise(starts.tolist()))
        draws = np.empty(len(tokens))
        for rng, (start, stop) in zip(generators, bounds, strict=True):
            rng.random(out=draws[start:stop])
        chosen = self._chosen(tokens, content, probability, draws, bounds)
        places = np.flatnonzero(chosen)
        ends = places.searchsorted(starts).tolist()
        fate = np.empty(len(places))
        drawn = np.empty(len(places), np.int64)
        for rng, (start, stop) in zip(generators, pairwise(ends), strict=True):
            rng.random(out=fate[start:stop])
            drawn[start:stop] = rng.integers(0, len(self._ordinary_ids), stop - start)
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
        """Return which tokens are scored: each ordinary content token with ``probability``, at least one per group."""
        maskable = content & self._is_ordinary[tokens]
        if self._span_length:
            chosen = maskable & _in_spans(draws, ~maskable, probability, self._span_length)
        else:
            if self._word_starts is not None:
                draws = _first_of_word(draws, maskable, self._word_starts[tokens])
            chosen = maskable & (draws < probability)
        for start, stop in bounds:
            if not chosen[start:stop].any() and maskable[start:stop].any():
                # The token, or the whole word, with the lowest draw.
                group = draws[start:stop]
                chosen[start:stop] = maskable[start:stop] & (group == group[maskable[start:stop]].min())
        return chosen


def _first_of_word(
    draws: NDArray[np.float64], maskable: NDArray[np.bool_], starts_word: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Give every token the draw of the first token of its word."""
    starts = starts_word | ~maskable
    starts[1:] |= ~maskable[:-1]
    starts[:1] = True
    return draws[np.maximum.accumulate(np.where(starts, np.arange(len(draws)), 0))]


def _in_spans(
    draws: NDArray[np.float64], breaks: NDArray[np.bool_], probability: float, mean_length: float
) -> NDArray[np.bool_]:
    """Return which positions lie in spans of geometric length, each position with ``probability``.

    The spans are a two-state Markov chain: a span continues with probability 1 - 1 / ``mean_length``, and one starts
    with the probability that makes ``probability`` the stationary share. After a break the chain restarts in its
    stationary distribution.

    Args:
        draws: uniform, one per position.
        breaks: positions that no span contains or crosses.
        probability: share of positions in spans.
        mean_length: tokens of a span, before breaks cut it.
    """
    continues = 1 - 1 / mean_length
    starts = probability / (mean_length * (1 - probability)) if probability < 1 else 1.0
    assert starts <= 1 or probability == 1
    fresh = breaks.copy()
    fresh[1:] |= breaks[:-1]
    fresh[:1] = True
    # A draw below both thresholds enters a span and one above both leaves it, from either state. One between them keeps
    # the state if a span is likelier to continue than to start, and flips it otherwise.
    low, high = min(starts, continues), max(starts, continues)
    settled = fresh | (draws < low) | (draws >= high)
    state = np.where(fresh, draws < probability, draws < low)
    latest = np.maximum.accumulate(np.where(settled, np.arange(len(draws)), 0))
    in_span: NDArray[np.bool_] = state[latest]
    if starts > continues:
        flips = (np.arange(len(draws)) - latest) % 2 == 1
        in_span = in_span ^ flips
    return in_span
