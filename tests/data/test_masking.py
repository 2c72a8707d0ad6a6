"""Masking: the published shares, ordinary tokens only, a function of seed and sample number."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_ettin.data.masking import Masker, chunk_generators, sample_generators
from megatron_ettin.data.rng import Purpose, random_stream

MASK, SPECIAL, TOKENS = 4, frozenset(range(5)), 1000
MASKER = Masker(mask_id=MASK, special_ids=SPECIAL, num_tokens=TOKENS)


def mask(
    masker: Masker, tokens: np.ndarray, content: np.ndarray, probability: float, sample: int, seed: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Mask one sample."""
    with sample_generators(seed, [sample]) as generators:
        return masker.mask(tokens, content, np.array([0, len(tokens)]), generators, probability)


def within_three_sigma(successes: int, trials: int, probability: float) -> bool:
    return abs(successes - trials * probability) <= 3 * math.sqrt(trials * probability * (1 - probability))


@pytest.mark.parametrize("probability", [0.15, 0.3])
def test_shares(probability: float) -> None:
    tokens = np.random.default_rng(0).integers(0, TOKENS, 1_000_000)
    content = np.random.default_rng(1).random(len(tokens)) < 0.99
    chosen, inputs = mask(MASKER, tokens, content, probability, 2)

    maskable = content & (tokens > 4)
    assert not (chosen & ~maskable).any()
    np.testing.assert_array_equal(inputs[~chosen], tokens[~chosen])
    assert within_three_sigma(chosen.sum(), maskable.sum(), probability)
    old, new = tokens[chosen], inputs[chosen]
    # A random token equals the old one with probability 1 / 995.
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
        chosen, _ = mask(MASKER, tokens, content, 0.001, sample)
        assert chosen.sum() == 1
        assert not chosen[:2].any()
    assert not mask(MASKER, tokens[:2], content[:2], 0.5, 0)[0].any()


def test_generators_are_functions_of_their_numbers() -> None:
    samples, chunks = [0, 1, 2**40], [(document, chunk) for document in (0, 1) for chunk in (0, 1)]
    draws = set()
    for lend in (sample_generators(1, samples), sample_generators(2, samples), chunk_generators(1, chunks)):
        with lend as generators:
            draws |= {rng.random() for rng in generators}
    assert len(draws) == 10


def test_lent_generators_draw_what_new_ones_draw() -> None:
    with sample_generators(3, [4]) as [rng]:
        drawn = [rng.random(), int(rng.integers(0, 1000)), rng.random()]
    new = random_stream(3, Purpose.TRAINING_MASK, 4)
    assert drawn == [new.random(), int(new.integers(0, 1000)), new.random()]
    with sample_generators(3, [4]) as [rng], sample_generators(3, [4]) as [other]:
        assert rng.random() == other.random() == drawn[0], "nested blocks share no generator"


def test_masking_a_batch_equals_masking_each_sample() -> None:
    rng = np.random.default_rng(0)
    lengths = [40, 3, 1, 200]
    starts = np.cumsum([0, *lengths])
    tokens = rng.integers(0, TOKENS, starts[-1])
    content = rng.random(len(tokens)) < 0.8
    content[starts[:-1]] = False
    for more in ({}, {"span_length": 3.0}, {"word_starts": np.arange(TOKENS) % 2 == 0}):
        masker = Masker(mask_id=MASK, special_ids=SPECIAL, num_tokens=TOKENS, **more)
        with sample_generators(1, range(4)) as generators:
            together = masker.mask(tokens, content, starts, generators, 0.3)
        for sample, (start, stop) in enumerate(itertools.pairwise(starts)):
            alone = mask(masker, tokens[start:stop], content[start:stop], 0.3, sample)
            for one, other in zip(together, alone, strict=True):
                np.testing.assert_array_equal(one[start:stop], other)


def test_a_row_has_a_new_mask_in_every_epoch() -> None:
    tokens = np.random.default_rng(0).integers(5, TOKENS, 20_000)
    content = np.ones(len(tokens), dtype=bool)
    # Sample numbers continue over epochs: with 100 rows, one row is samples 7, 107, 207, ...
    masks = [mask(MASKER, tokens, content, 0.3, 7 + 100 * epoch)[0] for epoch in range(3)]
    for one, other in itertools.combinations(masks, 2):
        assert within_three_sigma((one & other).sum(), len(tokens), 0.3 * 0.3), "chosen independently"


class TestWholeWords:
    STARTS = np.arange(TOKENS) % 3 == 0
    MASKER = Masker(mask_id=MASK, special_ids=SPECIAL, num_tokens=TOKENS, word_starts=STARTS)

    def words_of(self, tokens: np.ndarray, content: np.ndarray) -> list[list[int]]:
        """Return the positions of each word, found one token at a time."""
        words: list[list[int]] = []
        open_word = False
        for place, token in enumerate(tokens.tolist()):
            if not content[place] or token in SPECIAL:
                open_word = False
            elif open_word and not self.STARTS[token]:
                words[-1].append(place)
            else:
                words.append([place])
                open_word = True
        return words

    @settings(deadline=None)
    @given(st.lists(st.integers(0, 60), min_size=1, max_size=80), st.data())
    def test_words_are_chosen_entirely_or_not_at_all(self, ids: list[int], data: st.DataObject) -> None:
        tokens = np.array(ids)
        content = np.array(data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))))
        chosen, _ = mask(self.MASKER, tokens, content, 0.3, data.draw(st.integers(0, 99)))
        words = self.words_of(tokens, content)
        assert all(len({bool(chosen[place]) for place in word}) == 1 for word in words)
        assert chosen.sum() == sum(len(word) for word in words if chosen[word[0]])
        assert chosen.any() == bool(words)

    def test_the_share_holds(self) -> None:
        tokens = np.random.default_rng(0).integers(5, TOKENS, 1_000_000)
        content = np.ones(len(tokens), dtype=bool)
        chosen, _ = mask(self.MASKER, tokens, content, 0.3, 2)
        lengths = np.array([len(word) for word in self.words_of(tokens, content)])
        sigma = math.sqrt((lengths**2).sum() * 0.3 * 0.7)
        assert abs(chosen.sum() - 0.3 * len(tokens)) <= 3 * sigma


class TestSpans:
    @pytest.mark.parametrize(("probability", "mean"), [(0.15, 3.0), (0.3, 3.0), (0.3, 10.0), (0.5, 1.2)])
    def test_share_and_lengths(self, probability: float, mean: float) -> None:
        masker = Masker(mask_id=MASK, special_ids=SPECIAL, num_tokens=TOKENS, span_length=mean)
        tokens = np.full(2_000_000, 7)
        chosen, _ = mask(masker, tokens, np.ones(len(tokens), dtype=bool), probability, 2)
        edges = np.flatnonzero(np.diff(chosen.astype(int), prepend=0, append=0))
        lengths = edges[1::2] - edges[::2]
        # Geometric with mean m: P(length > k) = (1 - 1/m)^k.
        for more in range(6):
            assert within_three_sigma((lengths > more).sum(), len(lengths), (1 - 1 / mean) ** more)
        # Two-state Markov chain: the variance of its mean is that of independent draws times (1 + r) / (1 - r).
        starts = probability / (mean * (1 - probability))
        correlation = 1 - 1 / mean - starts
        inflated = (1 + correlation) / (1 - correlation)
        sigma = math.sqrt(len(tokens) * probability * (1 - probability) * inflated)
        assert abs(chosen.sum() - probability * len(tokens)) <= 3 * sigma

    @settings(deadline=None)
    @given(st.lists(st.booleans(), min_size=1, max_size=60), st.sampled_from([1.2, 3.0]), st.integers(0, 99))
    def test_spans_stay_inside_content(self, content: list[bool], mean: float, sample: int) -> None:
        masker = Masker(mask_id=MASK, special_ids=SPECIAL, num_tokens=TOKENS, span_length=mean)
        inside = np.array(content)
        chosen, _ = mask(masker, np.full(len(inside), 7), inside, 0.4, sample)
        assert not chosen[~inside].any()
        assert chosen.any() == inside.any()

    def test_masks_on_both_sides_of_a_break_are_independent(self) -> None:
        masker = Masker(mask_id=MASK, special_ids=SPECIAL, num_tokens=TOKENS, span_length=50.0)
        content = np.ones(40_000, dtype=bool)
        content[::2] = False
        chosen = mask(masker, np.full(len(content), 7), content, 0.3, 0)[0][1::2]
        assert within_three_sigma((chosen[1:] & chosen[:-1]).sum(), len(chosen) - 1, 0.09)


@pytest.mark.slow
@pytest.mark.parametrize("probability", [0.15, 0.3])
def test_shares_over_ten_million_tokens(probability: float) -> None:
    """Drawn like in training: one generator per row."""
    rng = np.random.default_rng(0)
    scored = hidden = kept = maskable = 0
    for sample in range(10_000):
        tokens = rng.integers(5, TOKENS, 1000)
        content = np.ones(len(tokens), dtype=bool)
        chosen, inputs = mask(MASKER, tokens, content, probability, sample, seed=7)
        maskable += len(tokens)
        scored += int(chosen.sum())
        hidden += int((inputs[chosen] == MASK).sum())
        kept += int((inputs[chosen] == tokens[chosen]).sum())
    assert maskable == 10_000_000
    assert within_three_sigma(scored, maskable, probability)
    assert within_three_sigma(hidden, scored, 0.8)
    assert within_three_sigma(kept, scored, 0.1 + 0.1 / 995)


def test_phases_have_masks_of_their_own() -> None:
    """The first phase keeps the masks that it had when phases shared them."""
    draws = []
    for phase in (0, 1, 2):
        with sample_generators(5, [9], phase) as [generator]:
            draws.append(generator.random(4).tolist())
    with sample_generators(5, [9]) as [generator]:
        assert generator.random(4).tolist() == draws[0]
    assert draws[0] != draws[1] != draws[2] != draws[0]
