"""Which source each row of a blend comes from.

For every k, the number of rows of source s among the first k differs from ``share_s * k`` by less than 1 (the chairman
assignment problem; Tijdeman, Discrete Mathematics 32, 1980). Row j of a source may be placed at the positions
floor((j - 1) / share) to ceil(j / share) - 1, its *window*; at each position, the open window that ends first is
served (earliest deadline first; Baruah et al., Algorithmica 15, 1996).

Rows are cut into blocks, and the counts at the start of a block are a function of its position: each quota rounded
down or up such that windows still fit. A position is thus found by a walk from the start of its block, whose length
grows with the inverse of the smallest share. docs/rows.md explains why such a rounding exists.
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
_SEGMENT = 4096
_KEPT_SEGMENTS = 16


@dataclass(frozen=True)
class _Segment:
    """Consecutive rows."""

    start: int
    counts: list[int]
    """Rows of each source before the segment."""
    sources: NDArray[np.int64]
    """Source of each row."""


class Blend:
    """The source of each row, for sources with fixed shares; all arithmetic is exact."""

    def __init__(self, weights: Sequence[Fraction | int], smallest_block: int = SMALLEST_BLOCK) -> None:
        """Normalise the weights.

        Args:
            weights: one per source, positive; only their ratios matter.
            smallest_block: minimum rows of a block.
        """
        assert weights
        assert all(weight > 0 for weight in weights)
        common = math.lcm(*(Fraction(weight).denominator for weight in weights))
        integers = [int(weight * common) for weight in weights]
        divisor = math.gcd(*integers)
        self._weights = [weight // divisor for weight in integers]
        self._total = sum(self._weights)
        # No window may contain two block boundaries.
        self._block = max(smallest_block, 2 * -(-self._total // min(self._weights)))
        self._walk = self._start_walk(0, 0, [0] * len(weights))
        self._segments: list[_Segment] = []
        self._lock = Lock()

    @property
    def shares(self) -> list[Fraction]:
        """Share of each source; the sum is 1."""
        return [Fraction(weight, self._total) for weight in self._weights]

    def counts(self, samples: int) -> list[int]:
        """Return how many of the first ``samples`` rows come from each source."""
        if len(self._weights) == 1:
            return [samples]
        with self._lock:
            segment = self._segment_at(samples)
        here = np.bincount(segment.sources[: samples - segment.start], minlength=len(self._weights))
        return [before + int(more) for before, more in zip(segment.counts, here, strict=True)]

    def start_at(self, samples: int, counts: Sequence[int]) -> None:
        """Start from known counts, such as a checkpoint's, instead of walking from the start of their block.

        Counts that the blend cannot have are ignored.
        """
        start = samples - samples % self._block
        if len(self._weights) > 1 and sum(counts) == samples and self._is_close(samples, counts):
            self._walk = self._start_walk(start, samples, list(counts))

    def sources(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the source of each sample from ``start`` to ``stop``, and its number among that source's rows."""
        if len(self._weights) == 1:
            return np.zeros(stop - start, np.int64), np.arange(start, stop)
        counts = self.counts(start)
        parts: list[NDArray[np.int64]] = []
        place = start
        while place < stop:
            with self._lock:
                segment = self._segment_at(place)
            parts.append(segment.sources[place - segment.start : stop - segment.start])
            place += len(parts[-1])
        sources = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        numbers = np.empty(len(sources), np.int64)
        for source in np.unique(sources).tolist():
            mine = np.flatnonzero(sources == source)
            numbers[mine] = counts[source] + np.arange(len(mine))
        return sources, numbers

    def _segment_at(self, place: int) -> _Segment:
        """Return a segment that contains ``place``; the latest are kept, since a step is looked up repeatedly."""
        for segment in self._segments:
            if segment.start <= place < segment.start + len(segment.sources):
                return segment
        start = place - place % self._block
        if not (self._walk.block.start == start and self._walk.place <= place):
            self._walk = self._start_walk(start, start, self._boundary(start))
        self._walk.advance(place - self._walk.place)
        counts = list(self._walk.counts)
        chosen = self._walk.advance(min(_SEGMENT, self._walk.left))
        self._segments = [_Segment(place, counts, np.array(chosen, np.int64)), *self._segments[: _KEPT_SEGMENTS - 1]]
        return self._segments[0]

    def _is_close(self, samples: int, counts: Sequence[int]) -> bool:
        return len(counts) == len(self._weights) and all(
            abs(count * self._total - weight * samples) < self._total
            for count, weight in zip(counts, self._weights, strict=True)
        )

    def _start_walk(self, block_start: int, place: int, counts: list[int]) -> _Walk:
        block = range(block_start, block_start + self._block)
        return _Walk(self._weights, block, place, counts, self._boundary(block.stop))

    def _boundary(self, place: int) -> list[int]:
        """Return the counts at a block boundary: each quota rounded down or up, so that adjacent blocks can be joined.

        As many fractional quotas are rounded up as their fractional parts sum to. In order of the ends of their
        windows, whenever the sum of the fractional parts passes an integer, the source seen so far whose window
        started first is rounded up.
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
    """The rows of one block in order: at each position the open window that ends first."""

    def __init__(
        self, weights: Sequence[int], block: range, place: int, counts: list[int], last_counts: Sequence[int]
    ) -> None:
        """Start at ``place`` of a block with the given counts; the block ends with ``last_counts``."""
        self.place = place
        self.counts = counts
        self.block = block
        self._weights = weights
        self._total = sum(weights)
        self._last_counts = last_counts
        self._open: list[tuple[int, int]] = []
        self._later: list[tuple[int, int]] = []
        for source in range(len(weights)):
            self._queue(source)

    @property
    def left(self) -> int:
        """Remaining rows of the block."""
        return self.block.stop - self.place

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
        """Queue the start of a source's next window, unless the block already has its last row of that source."""
        if self.counts[source] < self._last_counts[source]:
            start = self.counts[source] * self._total // self._weights[source]
            heapq.heappush(self._later, (start, source))

    def _enter(self, source: int) -> None:
        end = -(-(self.counts[source] + 1) * self._total // self._weights[source])
        heapq.heappush(self._open, (min(end, self.block.stop), source))
