"""Small packed micro-batches, built without the data package."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megatron_ettin.data.batch import PackedBatch


def packed_batch(
    chunks: Sequence[np.ndarray], *, causal: bool, seed: int = 0, mask_id: int = 4, pad_multiple: int = 1
) -> PackedBatch:
    """Pack chunks into one micro-batch.

    Causal: every token predicts the next one of its chunk. Bidirectional: about a third of each chunk, at least one
    token, is replaced by ``mask_id`` and scored. Padding to ``pad_multiple`` is a last chunk.
    """
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *(len(chunk) for chunk in chunks)])
    tokens = np.concatenate(chunks).astype(np.int64)
    real = len(tokens)
    if causal:
        is_last = np.zeros(real, dtype=bool)
        is_last[starts[1:] - 1] = True
        scored = np.flatnonzero(~is_last)
        labels = tokens[scored + 1]
    else:
        chosen = rng.random(real) < 0.3
        chosen[starts[:-1] + rng.integers(0, [len(chunk) for chunk in chunks])] = True
        scored = np.flatnonzero(chosen)
        labels = tokens[scored]
        tokens = np.where(chosen, mask_id, tokens)
    fill = -real % pad_multiple
    lengths = [len(chunk) for chunk in chunks] + ([fill] if fill else [])
    return PackedBatch(
        tokens_T=np.concatenate([tokens, np.zeros(fill, dtype=np.int64)]),
        positions_T=np.concatenate([np.arange(length) for length in lengths]),
        cu_seqlens=np.cumsum([0, *lengths]).astype(np.int32),
        scored_K=scored,
        labels_K=labels,
        real_tokens=real,
    )


def random_chunks(rng: np.random.Generator, lengths: Sequence[int], vocab_size: int) -> list[np.ndarray]:
    """Return chunks of random tokens above the special ids."""
    return [rng.integers(5, vocab_size, length) for length in lengths]
