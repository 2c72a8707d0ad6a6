"""Random streams are functions of their purpose and numbers."""

from __future__ import annotations

import itertools

import numpy as np

from megatron_ettin.data.rng import Purpose, random_stream


def test_a_stream_is_a_function_of_its_numbers() -> None:
    for purpose in Purpose:
        first, again = (random_stream(2**40, purpose, 2**50, 3).random(5) for _ in range(2))
        np.testing.assert_array_equal(first, again)


def test_neighbouring_streams_share_no_numbers() -> None:
    names = itertools.product((0, 1), Purpose, (0, 1, 2, 2**32), (0, 1, 2))
    drawn = [
        random_stream(seed, purpose, first, second).integers(0, 2**63, 1000) for seed, purpose, first, second in names
    ]
    assert len(np.unique(np.concatenate(drawn))) == 1000 * len(drawn)
