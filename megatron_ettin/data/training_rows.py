"""The rows of all sources of a blend in training order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.config.sources import SourceRequest, source_names
from megatron_ettin.data.blend import Blend
from megatron_ettin.data.rows import Row, RowDataset


@dataclass(frozen=True)
class Realised:
    """What a source contributed to a run so far, next to what was requested."""

    name: str
    requested: float
    """Share of the rows."""
    requested_tokens: int | None
    """The target in tokens, if one was given."""
    rows: int
    tokens: int
    epochs: float


class TrainingRows:
    """Rows by global sample number, identical on all ranks and in any order of access.

    Attributes:
        names: of the sources, by their numbers in the blend.
    """

    def __init__(self, requests: Sequence[SourceRequest], sources: Sequence[RowDataset]) -> None:
        """Blend sources.

        Args:
            requests: the requested amount of each source.
            sources: their rows.
        """
        self.requests = tuple(requests)
        self.sources = tuple(sources)
        self.names = source_names({rows.source: request.path for request, rows in zip(requests, sources, strict=True)})
        self.blend = Blend([_row_weight(*pair) for pair in zip(requests, sources, strict=True)])

    @property
    def num_rows(self) -> int:
        """Rows of one epoch of all sources together."""
        return sum(source.num_rows for source in self.sources)

    @property
    def fill_rate(self) -> float:
        """Fraction of the positions of all rows that contain a token, over one epoch of each source."""
        full = sum(source.num_positions / source.fill_rate for source in self.sources if source.fill_rate)
        return sum(source.num_positions for source in self.sources) / max(1.0, full)

    def row(self, sample: int) -> Row:
        """Return the row of a global sample number."""
        return self.rows(sample, sample + 1)[0]

    def rows(self, start: int, stop: int) -> list[Row]:
        """Return the rows of global sample numbers ``start`` to ``stop``."""
        if len(self.sources) == 1:
            return self.sources[0].rows(np.arange(start, stop))
        sources, numbers = self.blend.sources(start, stop)
        rows: list[Row] = [()] * (stop - start)
        for source in np.unique(sources).tolist():
            mine = np.flatnonzero(sources == source)
            for place, row in zip(mine.tolist(), self.sources[source].rows(numbers[mine]), strict=True):
                rows[place] = row
        return rows

    def tokens(self, start: int, stop: int, *, close_every_chunk: bool) -> NDArray[np.int64]:
        """Return the number of tokens of rows, including [CLS] and [SEP], without reading them."""
        sources, numbers = self.blend.sources(start, stop)
        tokens = np.empty(stop - start, np.int64)
        for source in np.unique(sources).tolist():
            mine = sources == source
            rows = self.sources[source]
            stored = rows.stored_numbers(numbers[mine])
            tokens[mine] = rows.row_tokens(stored, close_every_chunk=close_every_chunk)
        return tokens

    def realised(self, samples: int, *, close_every_chunk: bool) -> list[Realised]:
        """Return what each source contributed to the first ``samples`` rows."""
        shares, counts = self.blend.shares, self.blend.counts(samples)
        return [
            Realised(
                name=request.path,
                requested=float(share),
                requested_tokens=request.tokens,
                rows=count,
                tokens=rows.tokens_before(count, close_every_chunk=close_every_chunk),
                epochs=count / max(1, rows.num_rows),
            )
            for request, rows, share, count in zip(self.requests, self.sources, shares, counts, strict=True)
        ]


def _row_weight(request: SourceRequest, rows: RowDataset) -> Fraction:
    """Return the weight of a source in rows; a target in tokens is divided by the mean tokens of its rows."""
    if request.weight is not None:
        return request.weight
    if request.tokens is not None:
        return Fraction(request.tokens * rows.num_rows, max(1, rows.num_positions))
    return Fraction(max(1, rows.num_rows))
