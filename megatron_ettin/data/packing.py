"""Pieces of different lengths packed whole into rows of one length.

Best fit decreasing (Johnson, 1974): the longest pieces first, each into the fullest row that still has room. Pieces of
one length and rows with the same room are alike, so both are handled as groups, and the work does not grow with the
number of pieces but with the number of different lengths.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.streams import Purpose, random_stream


@dataclass(frozen=True)
class RowTable:
    """Which pieces lie in which row: row r holds ``pieces[starts[r] : starts[r + 1]]``."""

    pieces: NDArray[np.integer]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, number: int) -> NDArray[np.integer]:
        """Return the numbers of the pieces in one row."""
        return self.pieces[self.starts[number] : self.starts[number + 1]]


def one_row_each(count: int) -> RowTable:
    """Give every piece a row of its own."""
    return RowTable(np.arange(count), np.arange(count + 1))


def pack_best_fit(sizes: NDArray[np.integer], row_size: int) -> RowTable:
    """Pack pieces whole into as few rows as best fit finds.

    Args:
        sizes: positions each piece needs, 1 to ``row_size``.
        row_size: positions of a row.
    """
    if len(sizes) == 0:
        return RowTable(np.zeros(0, np.int64), np.zeros(1, np.int64))
    assert sizes.min() > 0
    assert sizes.max() <= row_size
    number_type: type[np.signedinteger] = np.int32 if len(sizes) <= np.iinfo(np.int32).max else np.int64
    # numpy sorts 16-bit keys by radix, in linear time.
    key_type = np.int16 if row_size <= np.iinfo(np.int16).max else np.int32
    # Pieces of one length are taken in a fixed random order, so that neighbours in the corpus do not share a row.
    shuffled = random_stream(0, Purpose.PACKING).permutation(np.arange(len(sizes), dtype=number_type))
    by_size = shuffled[np.argsort(-sizes[shuffled].astype(key_type), kind="stable")]
    first_of_size = np.flatnonzero(np.diff(sizes[by_size], prepend=0))
    row_of_piece = np.empty(len(sizes), number_type)
    rooms = _Rooms(row_size)
    for group in np.split(by_size, first_of_size[1:]):
        row_of_piece[group] = rooms.place(int(sizes[group[0]]), len(group))
    order = np.argsort(row_of_piece, kind="stable").astype(number_type)
    counts = np.bincount(row_of_piece, minlength=rooms.num_rows)
    return RowTable(order, np.concatenate(([0], np.cumsum(counts))))


class _Rooms:
    """Open rows, grouped by the room they have left."""

    def __init__(self, row_size: int) -> None:
        self.num_rows = 0
        self._row_size = row_size
        self._rows: dict[int, NDArray[np.int64]] = {}
        self._sorted_rooms: list[int] = []

    def place(self, size: int, count: int) -> NDArray[np.int64]:
        """Return the rows of ``count`` pieces of ``size``: the fullest rows that have room, then new ones."""
        placed = []
        while count > 0:
            found = bisect_left(self._sorted_rooms, size)
            if found == len(self._sorted_rooms):
                room, rows = self._row_size, self._open(-(-count // (self._row_size // size)))
            else:
                room = self._sorted_rooms.pop(found)
                rows = self._rows.pop(room)
            # A row that took a piece is now the fullest, so it takes all that fit before the next one takes any.
            each = room // size
            full = min(count // each, len(rows))
            started = min(-(-count // each), len(rows))
            self._add(room - each * size, rows[:full])
            self._add(room - (count - full * each) * size, rows[full:started])
            self._add(room, rows[started:])
            placed.append(np.repeat(rows[:started], each)[:count])
            count -= len(placed[-1])
        return np.concatenate(placed)

    def _open(self, count: int) -> NDArray[np.int64]:
        self.num_rows += count
        return np.arange(self.num_rows - count, self.num_rows)

    def _add(self, room: int, rows: NDArray[np.int64]) -> None:
        if room == 0 or len(rows) == 0:
            return
        if room in self._rows:
            self._rows[room] = np.concatenate((self._rows[room], rows))
        else:
            self._rows[room] = rows
            insort(self._sorted_rooms, room)
