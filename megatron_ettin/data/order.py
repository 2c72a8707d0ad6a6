"""Which sample is trained when and where: a function of the sample number alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.streams import Purpose, random_stream


def micro_batch_samples(
    step: int,
    *,
    global_batch_size: int,
    micro_batch_size: int,
    data_parallel_rank: int,
    data_parallel_size: int,
) -> list[list[int]]:
    """Return the global sample numbers of each of this rank's micro-batches in ``step``.

    Step s trains samples s * global_batch_size to (s + 1) * global_batch_size, whatever the data-parallel size.

    Args:
        step: from 0.
        global_batch_size: samples of one step over all ranks.
        micro_batch_size: samples of one forward pass.
        data_parallel_rank: which replica this is.
        data_parallel_size: number of replicas.
    """
    first = step * global_batch_size
    stride = micro_batch_size * data_parallel_size
    assert global_batch_size % stride == 0
    starts = range(first + data_parallel_rank * micro_batch_size, first + global_batch_size, stride)
    return [list(range(start, start + micro_batch_size)) for start in starts]


def epoch_order(num_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the rows in the order in which ``epoch`` trains them."""
    return random_stream(seed, Purpose.ROW_ORDER, epoch).permutation(num_rows)
