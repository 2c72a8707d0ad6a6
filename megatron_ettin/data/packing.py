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


@dataclass(frozen=True)
class RowTable:
    """Which pieces lie in which row: row r holds ``pieces[starts[r] : starts[r + 1]]``."""

    pieces: NDArray[np.int64]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, number: int) -> NDArray[np.int64]:
        """Return the numbers of the pieces in one row."""
        return self.pieces[self.starts[number] : self.starts[number + 1]]


def pack_best_fit(sizes: NDArray[np.int64], row_size: int) -> RowTable:
    """Pack pieces whole into as few rows as best fit finds.

    Args:
        sizes: positions each piece needs, 1 to ``row_size``.
        row_size: positions of a row.
    """
    if len(sizes) == 0:
        return RowTable(np.zeros(0, np.int64), np.zeros(1, np.int64))
    assert sizes.min() > 0
    assert sizes.max() <= row_size
    # Pieces of one length are taken in a fixed random order, so that neighbours in the corpus do not share a row.
    shuffled = np.random.Generator(np.random.Philox(0)).permutation(len(sizes))
    by_size = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    row_of_piece = np.empty(len(sizes), np.int64)
    first_of_size = np.flatnonzero(np.diff(sizes[by_size], prepend=0))
    rooms = _Rooms(row_size)
    for group in np.split(by_size, first_of_size[1:]):
        row_of_piece[group] = rooms.place(int(sizes[group[0]]), len(group))
    order = np.argsort(row_of_piece, kind="stable")
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
            taken, rest = rows[:count], rows[count:]
            self._add(room, rest)
            self._add(room - size, taken)
            placed.append(taken)
            count -= len(taken)
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
