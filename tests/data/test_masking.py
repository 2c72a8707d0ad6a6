"""Masking: the published shares, ordinary tokens only, and a function of seed and number."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from megatron_ettin.data.masking import Masker, piece_generator, sample_generator

MASK, SPECIAL, TOKENS = 4, frozenset(range(5)), 1000
MASKER = Masker(mask_id=MASK, special_ids=SPECIAL, num_tokens=TOKENS)


def within_three_sigma(successes: int, trials: int, probability: float) -> bool:
    return abs(successes - trials * probability) <= 3 * math.sqrt(trials * probability * (1 - probability))


@pytest.mark.parametrize("probability", [0.15, 0.3])
def test_shares(probability: float) -> None:
    rng = sample_generator(1, 2)
    tokens = np.random.default_rng(0).integers(0, TOKENS, 1_000_000)
    content = np.random.default_rng(1).random(len(tokens)) < 0.99
    chosen = MASKER.choose(tokens, content, probability, rng)
    inputs = MASKER.replace(tokens, chosen, rng)

    maskable = content & (tokens > 4)
    assert not (chosen & ~maskable).any()
    np.testing.assert_array_equal(inputs[~chosen], tokens[~chosen])
    assert within_three_sigma(chosen.sum(), maskable.sum(), probability)
    old, new = tokens[chosen], inputs[chosen]
    # A random token is the old one once in the 995 ordinary ones.
    assert within_three_sigma((new == MASK).sum(), len(old), 0.8)
    assert within_three_sigma((new == old).sum(), len(old), 0.1 + 0.1 / 995)
    drawn = new[(new != old) & (new != MASK)]
    assert drawn.min() == 5, "special tokens are never drawn"
    assert drawn.max() == TOKENS - 1
    spread = np.bincount(drawn, minlength=TOKENS)[5:]
    chi_square = ((spread - spread.mean()) ** 2 / spread.mean()).sum()
    assert abs(chi_square - 994) < 5 * math.sqrt(2 * 994)


def test_at_least_one_token_is_scored() -> None:
    tokens, content = np.array([1, 2, 7, 8]), np.array([False, True, True, True])
    for sample in range(50):
        chosen = MASKER.choose(tokens, content, 0.001, sample_generator(0, sample))
        assert chosen.sum() == 1
        assert not chosen[:2].any()
    assert not MASKER.choose(tokens[:2], content[:2], 0.5, sample_generator(0, 0)).any()


def test_generators_are_functions_of_their_numbers() -> None:
    draws = {sample_generator(seed, sample).random() for seed in (1, 2) for sample in (0, 1, 2**40)}
    draws |= {piece_generator(1, document, piece).random() for document in (0, 1) for piece in (0, 1)}
    assert len(draws) == 10
    assert sample_generator(3, 4).random() == sample_generator(3, 4).random()
    assert piece_generator(3, 4, 5).random() == piece_generator(3, 4, 5).random()


def test_a_row_is_masked_anew_in_every_epoch() -> None:
    tokens = np.random.default_rng(0).integers(5, TOKENS, 20_000)
    content = np.ones(len(tokens), dtype=bool)
    # Sample numbers count on over epochs: a row of 100 is samples 7, 107, 207, ...
    masks = [MASKER.choose(tokens, content, 0.3, sample_generator(1, 7 + 100 * epoch)) for epoch in range(3)]
    for one, other in itertools.combinations(masks, 2):
        assert within_three_sigma((one & other).sum(), len(tokens), 0.3 * 0.3), "chosen independently"
