"""Numbers that look random and depend on a name and a number alone."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def uniform_of(name: str, numbers: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each of ``numbers``, the same wherever it is asked for.

    The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) over a stream that begins at a hash of the name.
    """
    begin = np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    with np.errstate(over="ignore"):
        mixed = begin + (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
