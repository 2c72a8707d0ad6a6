"""Which tokens masked language modelling hides, and what stands in their place (BERT, arXiv 1810.04805, 3.1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.streams import Purpose, random_stream

MASKED_SHARE = 0.8
RANDOM_SHARE = 0.1


def sample_generator(seed: int, sample: int) -> np.random.Generator:
    """Return the generator of one training sample: the same on any rank, new in every epoch."""
    return random_stream(seed, Purpose.TRAINING_MASK, sample)


def piece_generator(seed: int, document: int, piece: int) -> np.random.Generator:
    """Return the generator of one piece in evaluation: the same in any batch, row and layout."""
    return random_stream(seed, Purpose.EVALUATION_MASK, document, piece)


class Masker:
    """Chooses tokens and replaces them: 80% by [MASK], 10% by a random token, 10% by themselves."""

    def __init__(self, *, mask_id: int, special_ids: frozenset[int], num_tokens: int) -> None:
        """Prepare the table of ordinary tokens.

        Args:
            mask_id: the [MASK] token.
            special_ids: are neither chosen nor drawn as a random replacement.
            num_tokens: size of the tokenizer; rows of the embedding beyond it stand for nothing and are not drawn.
        """
        ordinary = np.ones(num_tokens, dtype=bool)
        ordinary[list(special_ids)] = False
        self._is_ordinary = ordinary
        self._ordinary_ids = np.flatnonzero(ordinary)
        self._mask_id = mask_id

    def choose(
        self, tokens: NDArray[np.int64], content: NDArray[np.bool_], probability: float, rng: np.random.Generator
    ) -> NDArray[np.bool_]:
        """Return which tokens are scored: each ordinary content token with ``probability``, and at least one.

        Args:
            tokens: token ids.
            content: False at [CLS] and [SEP] that were added.
            probability: share to choose.
            rng: of this sample or piece.
        """
        maskable = content & self._is_ordinary[tokens]
        draws = rng.random(len(tokens))
        chosen = maskable & (draws < probability)
        if maskable.any() and not chosen.any():
            chosen[np.flatnonzero(maskable)[draws[maskable].argmin()]] = True
        return chosen

    def replace(
        self, tokens: NDArray[np.int64], chosen: NDArray[np.bool_], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return ``tokens`` with the chosen ones replaced."""
        count = int(chosen.sum())
        fate = rng.random(count)
        drawn = self._ordinary_ids[rng.integers(0, len(self._ordinary_ids), count)]
        replaced = tokens.copy()
        kept_or_drawn = np.where(fate < MASKED_SHARE + RANDOM_SHARE, drawn, tokens[chosen])
        replaced[chosen] = np.where(fate < MASKED_SHARE, self._mask_id, kept_or_drawn)
        return replaced
