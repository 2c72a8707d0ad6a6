"""Masked next-token prediction: an encoder trained by a decoder's rule (LLM2Vec, arXiv 2404.05961, section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.data.chunks import Chunk
from megatron_ettin.objectives.mlm import MaskedLanguageModelling


@dataclass(frozen=True)
class MaskedNextTokenPrediction(MaskedLanguageModelling):
    """Hide tokens as masked language modelling does, and predict each from the output one position before it.

    A decoder's output at i was trained to predict the token at i + 1; here it continues to, with both sides visible.
    """

    def _batch(
        self, groups: Sequence[Sequence[Chunk]], generators: Sequence[np.random.Generator], probability: float
    ) -> PackedBatch:
        batch = super()._batch(groups, generators, probability)
        # Only content is hidden and every chunk starts with [CLS], so the position before lies in the same chunk.
        return replace(batch, scored_K=batch.scored_K - 1)
