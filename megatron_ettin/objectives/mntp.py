"""Masked next-token prediction: an encoder trained by a decoder's rule (LLM2Vec, arXiv 2404.05961, 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.data.chunks import Chunk
from megatron_ettin.objectives.mlm import MaskedLanguageModelling


@dataclass(frozen=True)
class MaskedNextTokenPrediction(MaskedLanguageModelling):
    """Hide some tokens, see the whole chunk, predict each hidden token from the output of the position before it.

    A decoder's output at i was trained to predict the token at i + 1; here it goes on to do so, with the right side
    seen too. What is hidden is what masked language modelling hides.
    """

    name: ClassVar[str] = "mntp"

    def _batch(
        self, groups: Sequence[Sequence[Chunk]], generators: Sequence[np.random.Generator], probability: float
    ) -> PackedBatch:
        batch = super()._batch(groups, generators, probability)
        # Content is hidden only, and every chunk begins with [CLS]: the position before lies in the same chunk.
        return replace(batch, scored_K=batch.scored_K - 1)
