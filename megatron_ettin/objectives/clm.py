"""Causal language modelling, which trains a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_ettin.data.batch import PackedBatch, assemble, make_batch, next_token_targets
from megatron_ettin.data.rows import Row
from megatron_ettin.objectives.objective import Objective


@dataclass(frozen=True)
class CausalLanguageModelling(Objective):
    """Predict each token from those before it in the chunk."""

    def train_batch(self, rows: Sequence[Row], samples: Sequence[int], tokens_before: int = 0) -> PackedBatch:
        """Build a micro-batch; nothing in it is random, so the sample numbers do not matter."""
        return self.eval_batch(rows)

    def eval_batch(self, rows: Sequence[Row]) -> PackedBatch:
        """Build a batch in which every token but [CLS] is scored."""
        setting = self.setting
        chunks = [chunk for row in rows for chunk in row]
        packed = assemble(
            chunks, cls_id=setting.cls_id, sep_id=setting.sep_id, close_every_chunk=self.close_every_chunk
        )
        scored_K, labels_K = next_token_targets(packed, setting.never_targets)
        return make_batch(
            packed,
            inputs_T=packed.tokens_T,
            scored_K=scored_K,
            labels_K=labels_K,
            pad_id=setting.pad_id,
            pad_multiple=setting.pad_multiple,
        )
