"""Chunks of different lengths packed whole into rows of one length.

Best fit decreasing (Johnson, 1974): the longest chunks first, each into the fullest row that still has room. Chunks of
one length and rows with the same room are alike, so both are handled as groups, and the work does not grow with the
number of chunks but with the number of different lengths.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.rng import Purpose, random_stream

_AT_ONCE = 2**23
"""Chunks that are moved at a time: bounds memory."""
_SORTERS = 2


@dataclass(frozen=True)
class RowTable:
    """Which chunks lie in which row: row r holds ``chunks[starts[r] : starts[r + 1]]``."""

    chunks: NDArray[np.integer]
    starts: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.starts) - 1


def one_row_each(count: int) -> RowTable:
    """Give every chunk a row of its own."""
    kind = np.int32 if count < np.iinfo(np.int32).max else np.int64
    return RowTable(np.arange(count, dtype=kind), np.arange(count + 1, dtype=kind))


def pack_best_fit(
    sizes: NDArray[np.integer], row_size: int, on_rows: Callable[[int], object] = lambda num_rows: None
) -> RowTable:
    """Pack chunks whole into as few rows as best fit finds; those of a row ascend.

    Args:
        sizes: positions each chunk needs, 1 to ``row_size``.
        row_size: positions of a row.
        on_rows: told how many rows there will be as soon as that is known, long before they are.
    """
    if len(sizes) == 0:
        return RowTable(np.zeros(0, np.int32), np.zeros(1, np.int64))
    counts = np.bincount(sizes)
    assert counts[0] == 0
    assert len(counts) <= row_size + 1
    # Where chunks go depends on how many there are of each size; which of them go there is a matter of their order.
    rooms = _Rooms(row_size, len(sizes))
    for size in range(len(counts) - 1, 0, -1):
        if counts[size]:
            rooms.place(size, int(counts[size]))
    rows, ranks, filled = rooms.result()
    on_rows(len(filled))
    starts = np.concatenate(([0], np.cumsum(filled, dtype=np.int64)))
    by_size = _longest_first(sizes, counts, rows.dtype)
    table = np.empty(len(sizes), rows.dtype)
    for at in range(0, len(sizes), _AT_ONCE):
        part = slice(at, at + _AT_ONCE)
        table[starts[rows[part]] + ranks[part]] = by_size[part]
    del rows, ranks, by_size
    for count in range(2, int(filled.max()) + 1):
        _sort_within(table, starts[:-1][filled == count], count)
    return RowTable(table, starts)


def _longest_first(
    sizes: NDArray[np.integer], counts: NDArray[np.int64], number_type: np.dtype[Any]
) -> NDArray[np.signedinteger]:
    """Return the chunks by size, the longest first.

    Chunks of one size are in a fixed random order, so that neighbours in the corpus do not share a row.
    """
    shuffled = np.arange(len(sizes), dtype=number_type)
    random_stream(0, Purpose.PACKING).shuffle(shuffled)
    largest = len(counts) - 1
    # numpy sorts 16-bit keys by radix, in linear time; a part of them at a time, side by side and in little memory.
    key_type = np.uint16 if largest <= np.iinfo(np.uint16).max else np.int32
    by_size = np.empty(len(sizes), number_type)
    next_place = np.concatenate(([0], np.cumsum(counts[:0:-1])))

    def sort(at: int) -> tuple[NDArray[np.signedinteger], NDArray[np.int64]]:
        part = shuffled[at : at + _AT_ONCE]
        keys = (largest - sizes[part]).astype(key_type)
        return part[np.argsort(keys, kind="stable")], np.bincount(keys, minlength=largest)

    begins = range(0, len(sizes), _AT_ONCE)
    with ThreadPoolExecutor(_SORTERS) as pool:
        for group in range(0, len(begins), _SORTERS):
            for ordered, found in pool.map(sort, begins[group : group + _SORTERS]):
                ends = np.cumsum(found)
                for key in np.flatnonzero(found).tolist():
                    many, end, place = int(found[key]), int(ends[key]), int(next_place[key])
                    by_size[place : place + many] = ordered[end - many : end]
                    next_place[key] += many
    return by_size


def _sort_within(table: NDArray[np.signedinteger], starts: NDArray[np.int64], count: int) -> None:
    """Sort the chunks inside each of some rows that hold ``count`` of them."""
    at_once = max(1, _AT_ONCE // count)
    for at in range(0, len(starts), at_once):
        places = starts[at : at + at_once, None] + np.arange(count)
        table[places] = np.sort(table[places], axis=1)


class _Rooms:
    """Open rows, grouped by the room they have left."""

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
        """Return of each chunk, in the order they were placed, its row and its place there, and each row's chunks."""
        assert self._num_placed == len(self._placed)
        return self._placed, self._ranks, self._filled[: self._num_rows]

    def place(self, size: int, count: int) -> None:
        """Place ``count`` chunks of ``size``: into the fullest rows that have room, then into new ones."""
        while count > 0:
            found = bisect_left(self._sorted_rooms, size)
            if found == len(self._sorted_rooms):
                room, rows = self._row_size, self._open(-(-count // (self._row_size // size)))
            else:
                room = self._sorted_rooms.pop(found)
                rows = self._rows.pop(room)
            # A row that took a chunk is now the fullest, so it takes all that fit before the next one takes any.
            each = room // size
            full = min(count // each, len(rows))
            started = min(-(-count // each), len(rows))
            taken = min(count, started * each)
            self._note(rows[:started], each, taken)
            self._add(room - each * size, rows[:full])
            self._add(room - (count - full * each) * size, rows[full:started])
            self._add(room, rows[started:])
            count -= taken

    def _note(self, rows: NDArray[np.signedinteger], each: int, taken: int) -> None:
        """Note that each of ``rows`` takes ``each`` chunks, the last one fewer if there are no more."""
        here = slice(self._num_placed, self._num_placed + taken)
        self._placed[here] = np.repeat(rows, each)[:taken]
        before = self._filled[rows]
        steps = np.arange(each, dtype=self._rank_type)
        self._ranks[here] = (before[:, None] + steps).ravel()[:taken]
        before += self._rank_type(each)
        before[-1] -= self._rank_type(len(rows) * each - taken)
        self._filled[rows] = before
        self._num_placed += taken

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
