"""Which rows make a step, and how data-parallel ranks share them.

A step starts at the row after the previous step. Where it ends depends on where it starts and on the tokens trained
before it, never on the ranks, so a run resumes from its counters alone. The rows of a step are cut into micro-batches,
again independently of the ranks; micro-batch i goes to data-parallel rank i modulo their number. If they do not divide
evenly, the last ranks get a micro-batch without rows, so that all ranks make the same number of passes.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_REMEMBERED_STEPS = 64
_LOOK_AHEAD = 1024
"""Rows whose tokens are looked up at a time: how many rows fill a step is not known in advance."""


@dataclass(frozen=True)
class BatchRule:
    """Sizes of steps and micro-batches."""

    rows: int
    """Of a step; unused where ``tokens`` is given."""
    micro_rows: int
    """Of a micro-batch; unused where ``micro_tokens`` is given."""
    tokens: int = 0
    """Of a step, at most; 0 counts rows instead."""
    micro_tokens: int = 0
    """Of a micro-batch, at most; 0 counts rows instead."""
    first_size: int = 0
    """Size of the first step of a warm-up, in rows or tokens."""
    warmup_tokens: int = 0
    """Tokens over which a step grows to its full size."""
    close_every_chunk: bool = True
    """Whether the run's token counter includes a [SEP] after every chunk, as an encoder's does."""

    @property
    def size(self) -> int:
        """Size of a full step, in rows or tokens."""
        return self.tokens or self.rows

    def size_after(self, tokens: int) -> int:
        """Return the size of a step that starts after ``tokens`` trained tokens."""
        if tokens >= self.warmup_tokens or self.first_size >= self.size:
            return self.size
        return warmed_up_size(self.first_size, self.size, tokens, self.warmup_tokens)


def warmed_up_size(first: int, full: int, tokens: int, warmup_tokens: int) -> int:
    """Return the size of a step ``tokens`` into a warm-up.

    The size grows by 1 at a time, and the tokens spent at each size are proportional to it: the size reaches b when
    first + (first + 1) + ... + (b - 1) is the same fraction of the sum up to ``full`` - 1 as the tokens are of the
    warm-up (the warm-up of ModernBERT's packer).

    >>> [warmed_up_size(1, 4, tokens, 60) for tokens in (0, 9, 10, 29, 30, 59)]
    [1, 1, 2, 2, 3, 3]
    """
    total = full * (full - 1) - first * (first - 1)
    spent = first * (first - 1) + total * tokens // warmup_tokens
    # The largest b with b (b - 1) <= spent.
    return max(first, min(full - 1, (1 + math.isqrt(1 + 4 * spent)) // 2))


class RowSizes(Protocol):
    """Looks up the tokens of rows."""

    def tokens(self, start: int, stop: int, *, close_every_chunk: bool) -> NDArray[np.int64]:
        """Return the tokens of rows ``start`` to ``stop``."""


@dataclass(frozen=True)
class Step:
    """The rows of one step."""

    start: int
    stop: int
    tokens_before: int
    """Trained before the step; -1 where they are not counted."""

    def __len__(self) -> int:
        return self.stop - self.start


class StepPlan:
    """The rows of each step from a position in the training order."""

    def __init__(
        self,
        rule: BatchRule,
        sizes: RowSizes,
        *,
        step: int = 0,
        sample: int = 0,
        tokens: int = 0,
        counts_tokens: bool = False,
    ) -> None:
        """Start from the counters of a run.

        Args:
            rule: sizes of steps and micro-batches.
            sizes: the tokens of rows.
            step: number of the first step that will be requested.
            sample: its first row.
            tokens: trained before it.
            counts_tokens: whether to set ``Step.tokens_before`` even if the rule does not need it.
        """
        self.rule = rule
        self._sizes = sizes
        self._needs_tokens = counts_tokens or rule.warmup_tokens > 0
        self._lock = Lock()
        before = tokens if self._needs_tokens else -1
        self._known: OrderedDict[int, Step] = OrderedDict({step: self._step_from(sample, before)})

    def of(self, step: int) -> Step:
        """Return the rows of a step; only the latest ones that were computed can be requested again."""
        with self._lock:
            last = next(reversed(self._known))
            while last < step:
                previous = self._known[last]
                tokens = -1
                if self._needs_tokens:
                    tokens = previous.tokens_before + self._tokens(previous.start, previous.stop)
                last += 1
                self._known[last] = self._step_from(previous.stop, tokens)
                if len(self._known) > _REMEMBERED_STEPS:
                    self._known.popitem(last=False)
            return self._known[step]

    def micro_batches(self, step: int, rank: int, ranks: int) -> list[range]:
        """Return the rows of each micro-batch of data-parallel rank ``rank`` of ``ranks``."""
        return of_rank(self._cut(self.of(step)), rank, ranks)

    def _step_from(self, start: int, tokens_before: int) -> Step:
        size = self.rule.size_after(max(0, tokens_before))
        if not self.rule.tokens:
            return Step(start, start + size, tokens_before)
        stop = start
        left = size
        while left > 0:
            sums = np.cumsum(self._sizes.tokens(stop, stop + _LOOK_AHEAD, close_every_chunk=True))
            fitting = int(np.searchsorted(sums, left, side="right"))
            stop += fitting
            if fitting < _LOOK_AHEAD:
                break
            left -= int(sums[-1])
        return Step(start, max(stop, start + 1), tokens_before)

    def _tokens(self, start: int, stop: int) -> int:
        return int(self._sizes.tokens(start, stop, close_every_chunk=self.rule.close_every_chunk).sum())

    def _cut(self, step: Step) -> list[range]:
        if not self.rule.micro_tokens:
            size = self.rule.micro_rows
            return [range(start, min(start + size, step.stop)) for start in range(step.start, step.stop, size)]
        sizes = self._sizes.tokens(step.start, step.stop, close_every_chunk=True).tolist()
        return cut_by_tokens(step.start, sizes, self.rule.micro_tokens)


def cut_by_tokens(start: int, sizes: Sequence[int], limit: int) -> list[range]:
    """Cut consecutive rows into groups of at most ``limit`` tokens; a larger row is a group of its own."""
    borders, tokens = [start], 0
    for number, size in enumerate(sizes, start):
        if tokens and tokens + size > limit:
            borders.append(number)
            tokens = 0
        tokens += size
    return [range(*pair) for pair in pairwise([*borders, start + len(sizes)])]


def of_rank(micro_batches: Sequence[range], rank: int, ranks: int) -> list[range]:
    """Return a data-parallel rank's share; all ranks get the same number, some of which may be empty."""
    end = micro_batches[-1].stop if micro_batches else 0
    filled = [*micro_batches, *[range(end, end)] * (-len(micro_batches) % ranks)]
    return filled[rank::ranks]
