"""Which source each row of a blend comes from.

At every step the rows of source s among the first k are within 1 of ``share_s * k``, for any number of sources: the
chairman assignment problem (Tijdeman, Discrete Mathematics 32, 1980). Unit j of a source may then be placed in the
slots floor((j - 1) / share) to ceil(j / share) - 1, and taking the unit with the earliest end first fills every slot in
time (Baruah et al., Algorithmica 15, 1996, on one processor).

That rule alone would have to be followed from the first row on. So the rows are cut into blocks, and the state at each
block's begin is a function of its place: which sources are rounded up there. Any rounding works that leaves enough
room on both sides: taken in order of the ends of their windows, and likewise of their begins, any first sources
together are never rounded below the floor of their sum. Both orders can be served at once, since two chains of sets
make a totally unimodular system; by Hall's theorem two such states can then be joined. A position costs the walk from
the begin of its block, which grows with the inverse of the smallest share.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from threading import Lock

import numpy as np
from numpy.typing import NDArray

SMALLEST_BLOCK = 4096
_STRETCH = 4096
_KEPT_STRETCHES = 16


@dataclass(frozen=True)
class _Stretch:
    """Some rows after each other."""

    start: int
    counts: list[int]
    """Rows of each source before it."""
    sources: NDArray[np.int64]


class Blend:
    """Sources with fixed shares; all arithmetic is exact."""

    def __init__(self, weights: Sequence[Fraction | int], smallest_block: int = SMALLEST_BLOCK) -> None:
        """Prepare the shares.

        Args:
            weights: positive, one a source; only their ratios count.
            smallest_block: rows of a block, at least.
        """
        assert weights
        assert all(weight > 0 for weight in weights)
        common = math.lcm(*(Fraction(weight).denominator for weight in weights))
        whole = [int(weight * common) for weight in weights]
        divisor = math.gcd(*whole)
        self._weights = [weight // divisor for weight in whole]
        self._total = sum(self._weights)
        # No window may reach over two boundaries.
        self._block = max(smallest_block, 2 * -(-self._total // min(self._weights)))
        self._walk = self._start_walk(0, 0, [0] * len(weights))
        self._stretches: list[_Stretch] = []
        self._lock = Lock()

    @property
    def shares(self) -> list[Fraction]:
        """Share of each source; they sum to 1."""
        return [Fraction(weight, self._total) for weight in self._weights]

    def counts(self, samples: int) -> list[int]:
        """Return how many of the first ``samples`` rows come from each source."""
        if len(self._weights) == 1:
            return [samples]
        with self._lock:
            stretch = self._stretch_at(samples)
        here = np.bincount(stretch.sources[: samples - stretch.start], minlength=len(self._weights))
        return [before + int(more) for before, more in zip(stretch.counts, here, strict=True)]

    def remember(self, samples: int, counts: Sequence[int]) -> None:
        """Begin from a known state, such as a checkpoint's, where that is nearer than the begin of its block."""
        begin = samples - samples % self._block
        if len(self._weights) > 1 and sum(counts) == samples and self._is_close(samples, counts):
            self._walk = self._start_walk(begin, samples, list(counts))

    def sources(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return for samples ``start`` to ``stop`` the source of each, and its number among that source's rows."""
        if len(self._weights) == 1:
            return np.zeros(stop - start, np.int64), np.arange(start, stop)
        counts = self.counts(start)
        parts: list[NDArray[np.int64]] = []
        place = start
        while place < stop:
            with self._lock:
                stretch = self._stretch_at(place)
            parts.append(stretch.sources[place - stretch.start : stop - stretch.start])
            place += len(parts[-1])
        sources = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        numbers = np.empty(len(sources), np.int64)
        for source in np.unique(sources).tolist():
            mine = np.flatnonzero(sources == source)
            numbers[mine] = counts[source] + np.arange(len(mine))
        return sources, numbers

    def _stretch_at(self, place: int) -> _Stretch:
        """Return a stretch of rows that holds ``place``; the latest are kept, as a step is looked at repeatedly."""
        for stretch in self._stretches:
            if stretch.start <= place < stretch.start + len(stretch.sources):
                return stretch
        begin = place - place % self._block
        if not (self._walk.begin == begin and self._walk.place <= place):
            self._walk = self._start_walk(begin, begin, self._boundary(begin))
        self._walk.advance(place - self._walk.place)
        counts = list(self._walk.counts)
        chosen = self._walk.advance(min(_STRETCH, self._walk.left))
        self._stretches = [_Stretch(place, counts, np.array(chosen, np.int64)), *self._stretches[: _KEPT_STRETCHES - 1]]
        return self._stretches[0]

    def _is_close(self, samples: int, counts: Sequence[int]) -> bool:
        return len(counts) == len(self._weights) and all(
            abs(count * self._total - weight * samples) < self._total
            for count, weight in zip(counts, self._weights, strict=True)
        )

    def _start_walk(self, begin: int, place: int, counts: list[int]) -> _Walk:
        end = begin + self._block
        return _Walk(self._weights, self._total, place, counts, self._boundary(end), end, begin)

    def _boundary(self, place: int) -> list[int]:
        """Return the counts at the boundary of a block: each quota rounded down or up, so that they can be joined.

        Of the sources whose quota is no whole number, as many are rounded up as their fractions sum to. Going through
        them by the ends of their windows, whenever the sum of fractions passes a whole number, the one among those
        seen whose window began first is rounded up.
        """
        total = self._total
        counts = [weight * place // total for weight in self._weights]
        rests = [weight * place % total for weight in self._weights]
        by_end = sorted(
            (Fraction((count + 1) * total, weight), source)
            for source, (count, weight) in enumerate(zip(counts, self._weights, strict=True))
            if rests[source]
        )
        seen: list[tuple[Fraction, int]] = []
        passed = 0
        for _, source in by_end:
            heapq.heappush(seen, (Fraction(counts[source] * total, self._weights[source]), source))
            passed += rests[source]
            if passed >= total:
                passed -= total
                _, first = heapq.heappop(seen)
                counts[first] += 1
        assert sum(counts) == place
        return counts


class _Walk:
    """Row after row of one block, the unit whose window ends first among those whose window has begun."""

    def __init__(
        self,
        weights: Sequence[int],
        total: int,
        place: int,
        counts: list[int],
        last_counts: Sequence[int],
        end: int,
        begin: int = 0,
    ) -> None:
        self.begin = begin
        self.place = place
        self.counts = counts
        self._weights = weights
        self._total = total
        self._last_counts = last_counts
        self._end = end
        self._open: list[tuple[int, int]] = []
        self._later: list[tuple[int, int]] = []
        for source in range(len(weights)):
            self._queue(source)

    @property
    def left(self) -> int:
        """Rows of the block that are still to come."""
        return self._end - self.place

    def advance(self, rows: int) -> list[int]:
        """Return the sources of the next rows."""
        chosen = []
        for _ in range(rows):
            while self._later and self._later[0][0] <= self.place:
                self._enter(heapq.heappop(self._later)[1])
            deadline, source = heapq.heappop(self._open)
            assert deadline > self.place
            self.counts[source] += 1
            self.place += 1
            self._queue(source)
            chosen.append(source)
        return chosen

    def _queue(self, source: int) -> None:
        """Note when the next unit of a source may be placed, if it may be so in this block at all."""
        if self.counts[source] < self._last_counts[source]:
            begins = self.counts[source] * self._total // self._weights[source]
            heapq.heappush(self._later, (begins, source))

    def _enter(self, source: int) -> None:
        ends = -(-(self.counts[source] + 1) * self._total // self._weights[source])
        heapq.heappush(self._open, (min(ends, self._end), source))
