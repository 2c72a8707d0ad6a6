"""What a model that knows only how often each token occurs would reach: the floor that learning has to break."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def unigram_entropy(tokens: NDArray[np.integer]) -> float:
    """Return the entropy, in nats a token, of the distribution of these tokens themselves.

    No predictor that ignores context can have a lower mean cross-entropy on the same tokens, for its best choice is
    their own distribution, which it would have to be told.

    Raises:
        ValueError: there are no tokens.
    """
    if tokens.size == 0:
        raise ValueError("the entropy of no tokens is not defined")
    counts = np.unique(tokens, return_counts=True)[1]
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())
