"""Random numbers as functions of what they are for: nothing depends on what was drawn before."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


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


def random_streams(seed: int, purpose: Purpose, numbers: Sequence[tuple[int, int]]) -> list[np.random.Generator]:
    """Return the generators of many things, each as :func:`random_stream` gives it.

    Making one takes longer than drawing a row's numbers from it, so each thread has some that are wound to where they
    are needed: those that it got before are no longer good.

    Args:
        seed: of the run, not negative.
        purpose: what for.
        numbers: ``first`` and ``second`` of each.
    """
    while len(_held.generators) < len(numbers):
        _held.generators.append(np.random.Generator(np.random.Philox(key=0)))
    key = np.array([seed, 0], dtype=np.uint64)
    given = _held.generators[: len(numbers)]
    for generator, (first, second) in zip(given, numbers, strict=True):
        generator.bit_generator.state = {
            "bit_generator": "Philox",
            "state": {"counter": np.array([0, second, first, purpose], dtype=np.uint64), "key": key},
            "buffer": _NOTHING_DRAWN,
            "buffer_pos": len(_NOTHING_DRAWN),
            "has_uint32": 0,
            "uinteger": 0,
        }
    return given


class _Held(threading.local):
    """Generators of one thread."""

    def __init__(self) -> None:
        self.generators: list[np.random.Generator] = []


_held = _Held()
_NOTHING_DRAWN = np.zeros(4, np.uint64)


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
