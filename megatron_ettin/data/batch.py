"""What one forward pass reads: documents laid end to end, without padding between them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PackedBatch:
    """One micro-batch of one data-parallel rank, as numpy arrays.

    All its documents' pieces follow each other in one axis of T tokens; ``cu_seqlens`` says where each begins. What
    fills the batch up to a multiple (sequence parallelism needs one) is a last piece of its own, and is never scored.

    Shapes: T packed tokens, D pieces, K scored positions.
    """

    tokens_T: NDArray[np.int64]
    """Input ids, masking already applied."""
    positions_T: NDArray[np.int64]
    """Position of each token in its own piece, from 0: what RoPE turns by."""
    cu_seqlens: NDArray[np.int32]
    """Shape [D + 1]: piece d is tokens cu_seqlens[d] to cu_seqlens[d + 1]; the last entry is T."""
    scored_K: NDArray[np.int64]
    """Indices into T whose output is scored, ascending."""
    labels_K: NDArray[np.int64]
    """The right token at each scored position."""
    real_tokens: int
    """Tokens that are not filling."""

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each piece, the filling one included."""
        return tuple((self.cu_seqlens[1:] - self.cu_seqlens[:-1]).tolist())
