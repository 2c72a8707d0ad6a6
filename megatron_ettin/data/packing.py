"""Packing of whole chunks into rows of one length.

Best fit decreasing (Johnson, 1974): the longest chunks first, each into the fullest row that still has room. Chunks of
equal length and rows with equal room are interchangeable, so both are processed in groups, and the number of steps
grows with the number of distinct lengths, not with the number of chunks.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.rng import Purpose, random_stream

_AT_ONCE = 2**23
"""Chunks that are processed at a time, to bound memory."""
_SORTERS = 2


@dataclass(frozen=True)
class RowTable:
    """The chunks of each row: row r has ``chunks[starts[r] : starts[r + 1]]``."""

    chunks: NDArray[np.integer]
    starts: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.starts) - 1


def one_row_each(count: int) -> RowTable:
    """Return one row per chunk."""
    kind = np.int32 if count < np.iinfo(np.int32).max else np.int64
    return RowTable(np.arange(count, dtype=kind), np.arange(count + 1, dtype=kind))


def pack_best_fit(sizes: NDArray[np.integer], row_size: int) -> RowTable:
    """Pack whole chunks by best fit decreasing; the chunk numbers of a row ascend.

    Args:
        sizes: positions of each chunk, 1 to ``row_size``.
        row_size: positions of a row.
    """
    if len(sizes) == 0:
        return RowTable(np.zeros(0, np.int32), np.zeros(1, np.int64))
    counts = np.bincount(sizes)
    assert counts[0] == 0
    assert len(counts) <= row_size + 1
    # The placement depends on the number of chunks of each size alone; their order decides which ones go where.
    rooms = _Rooms(row_size, len(sizes))
    for size in range(len(counts) - 1, 0, -1):
        if counts[size]:
            rooms.place(size, int(counts[size]))
    rows, ranks, filled = rooms.result()
    starts = np.concatenate(([0], np.cumsum(filled, dtype=np.int64)))
    by_size = _longest_first(sizes, counts, rows.dtype)
    table = np.empty(len(sizes), rows.dtype)
    for start in range(0, len(sizes), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        table[starts[rows[part]] + ranks[part]] = by_size[part]
    del rows, ranks, by_size
    for count in range(2, int(filled.max()) + 1):
        _sort_within(table, starts[:-1][filled == count], count)
    return RowTable(table, starts)


def _longest_first(
    sizes: NDArray[np.integer], counts: NDArray[np.int64], number_type: np.dtype[Any]
) -> NDArray[np.signedinteger]:
    """Return the chunk numbers sorted by size, the longest first.

    Chunks of equal size are in a fixed random order, so that neighbours in the corpus do not share a row.
    """
    shuffled = np.arange(len(sizes), dtype=number_type)
    random_stream(0, Purpose.PACKING).shuffle(shuffled)
    largest = len(counts) - 1
    # numpy sorts 16-bit keys by radix, in linear time; threads sort one part each, to bound memory.
    key_type = np.uint16 if largest <= np.iinfo(np.uint16).max else np.int32
    by_size = np.empty(len(sizes), number_type)
    next_place = np.concatenate(([0], np.cumsum(counts[:0:-1])))

    def sort(start: int) -> tuple[NDArray[np.signedinteger], NDArray[np.int64]]:
        part = shuffled[start : start + _AT_ONCE]
        keys = (largest - sizes[part]).astype(key_type)
        return part[np.argsort(keys, kind="stable")], np.bincount(keys, minlength=largest)

    starts = range(0, len(sizes), _AT_ONCE)
    with ThreadPoolExecutor(_SORTERS) as pool:
        for group in range(0, len(starts), _SORTERS):
            for ordered, per_key in pool.map(sort, starts[group : group + _SORTERS]):
                ends = np.cumsum(per_key)
                for key in np.flatnonzero(per_key).tolist():
                    count, end, place = int(per_key[key]), int(ends[key]), int(next_place[key])
                    by_size[place : place + count] = ordered[end - count : end]
                    next_place[key] += count
    return by_size


def _sort_within(table: NDArray[np.signedinteger], starts: NDArray[np.int64], count: int) -> None:
    """Sort the chunk numbers within each of the given rows, which have ``count`` chunks each."""
    step = max(1, _AT_ONCE // count)
    for first in range(0, len(starts), step):
        places = starts[first : first + step, None] + np.arange(count)
        table[places] = np.sort(table[places], axis=1)


class _Rooms:
    """Open rows, grouped by their remaining room."""

    def __init__(self, row_size: int, num_chunks: int) -> None:
        narrow = num_chunks <= np.iinfo(np.int32).max
        self._row_type: type[np.signedinteger] = np.int32 if narrow else np.int64
        self._rank_type: type[np.integer] = np.uint16 if row_size <= np.iinfo(np.uint16).max else np.int32
        self._num_rows = 0
        self._row_size = row_size
        self._rows: dict[int, NDArray[np.signedinteger]] = {}
        self._sorted_rooms: list[int] = []
        self._filled = np.zeros(0, self._rank_type)
        self._placed = np.empty(num_chunks, self._row_type)
        self._ranks = np.empty(num_chunks, self._rank_type)
        self._num_placed = 0

    def result(self) -> tuple[NDArray[np.signedinteger], NDArray[np.integer], NDArray[np.integer]]:
        """Return the row of each placed chunk and its rank in that row, in order, and the number of chunks per row."""
        assert self._num_placed == len(self._placed)
        return self._placed, self._ranks, self._filled[: self._num_rows]

    def place(self, size: int, count: int) -> None:
        """Place ``count`` chunks of ``size``: into the fullest rows with room, then into new ones."""
        while count > 0:
            smallest = bisect_left(self._sorted_rooms, size)
            if smallest == len(self._sorted_rooms):
                room, rows = self._row_size, self._open(-(-count // (self._row_size // size)))
            else:
                room = self._sorted_rooms.pop(smallest)
                rows = self._rows.pop(room)
            # A row that received a chunk is now the fullest, so it receives all that fit before the next row does.
            each = room // size
            full = min(count // each, len(rows))
            started = min(-(-count // each), len(rows))
            placed = min(count, started * each)
            self._record(rows[:started], each, placed)
            self._add(room - each * size, rows[:full])
            self._add(room - (count - full * each) * size, rows[full:started])
            self._add(room, rows[started:])
            count -= placed

    def _record(self, rows: NDArray[np.signedinteger], each: int, placed: int) -> None:
        """Record ``placed`` chunks: ``each`` in every row of ``rows``, the remainder in the last."""
        here = slice(self._num_placed, self._num_placed + placed)
        self._placed[here] = np.repeat(rows, each)[:placed]
        filled = self._filled[rows]
        steps = np.arange(each, dtype=self._rank_type)
        self._ranks[here] = (filled[:, None] + steps).ravel()[:placed]
        filled += self._rank_type(each)
        filled[-1] -= self._rank_type(len(rows) * each - placed)
        self._filled[rows] = filled
        self._num_placed += placed

    def _open(self, count: int) -> NDArray[np.signedinteger]:
        self._num_rows += count
        if self._num_rows > len(self._filled):
            grown = np.zeros(max(self._num_rows, len(self._filled) * 3 // 2), self._rank_type)
            grown[: len(self._filled)] = self._filled
            self._filled = grown
        return np.arange(self._num_rows - count, self._num_rows, dtype=self._row_type)

    def _add(self, room: int, rows: NDArray[np.signedinteger]) -> None:
        if room == 0 or len(rows) == 0:
            return
        if room in self._rows:
            self._rows[room] = np.concatenate((self._rows[room], rows))
        else:
            self._rows[room] = rows
            insort(self._sorted_rooms, room)
