"""In which order rows are trained: a function of numbers alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.streams import Purpose, random_stream


def epoch_order(num_rows: int, seed: int, epoch: int, source: int = 0) -> NDArray[np.integer]:
    """Return the rows of a source in the order in which ``epoch`` trains them."""
    # Halving the numbers leaves the shuffle as it is.
    kind: type[np.signedinteger] = np.int32 if num_rows <= np.iinfo(np.int32).max else np.int64
    order: NDArray[np.integer] = np.arange(num_rows, dtype=kind)
    random_stream(seed, Purpose.ROW_ORDER, epoch, source).shuffle(order)
    return order
