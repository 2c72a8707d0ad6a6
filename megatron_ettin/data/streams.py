"""Random numbers as functions of what they are for: nothing depends on what was drawn before."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What random numbers are drawn for."""

    TRAINING_MASK = 0
    EVALUATION_MASK = 1
    ROW_ORDER = 2
    PACKING = 3


def random_stream(seed: int, purpose: Purpose, first: int = 0, second: int = 0) -> np.random.Generator:
    """Return the generator of one thing, with numbers that no other purpose or number shares.

    Philox enciphers a counter of four 64-bit words under a key (Salmon et al., SC 2011). The seed is the key; drawing
    moves the lowest word, and the other three say what is drawn for.

    Args:
        seed: of the run, not negative.
        purpose: what for.
        first: number of the sample, document or epoch.
        second: number inside it.
    """
    key = np.array([seed, 0], dtype=np.uint64)
    counter = np.array([0, second, first, purpose], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
