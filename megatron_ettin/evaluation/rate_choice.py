"""The choice of a learning rate by scores of items that are not reported, in one way for all suites that train."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RateChoice:
    """A grid of learning rates and how each did; more is better."""

    scores: Mapping[float, float | None]
    """By rate. None where there is no score, as where nothing was left to choose on, which needs a grid of one."""

    @property
    def best(self) -> float:
        """The rate with the best score; of equals the lowest."""
        return min(self.scores, key=lambda rate: (-self._worth(rate), rate))

    @property
    def is_at_edge(self) -> bool:
        """Whether the best is the lowest or highest of the grid, so that a better one may lie outside."""
        return len(self.scores) > 1 and self.best in (min(self.scores), max(self.scores))

    def as_details(self) -> dict[str, Any]:
        """Return what a result tells of the choice."""
        return {
            "learning_rate": self.best,
            "learning_rate_at_edge_of_grid": self.is_at_edge,
            "choice_scores": {str(rate): self._told(rate) for rate in self.scores},
        }

    def _told(self, rate: float) -> float | None:
        score = self.scores[rate]
        return None if score is None or math.isnan(score) else score

    def _worth(self, rate: float) -> float:
        told = self._told(rate)
        return -math.inf if told is None else told
