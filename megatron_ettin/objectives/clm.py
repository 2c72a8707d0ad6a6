"""Causal language modelling: what makes a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from megatron_ettin.config.layer_pattern import MaskKind
from megatron_ettin.data.batch import PackedBatch, assemble, make_batch, next_token_targets
from megatron_ettin.data.rows import Row
from megatron_ettin.objectives.batch_setting import BatchSetting


@dataclass(frozen=True)
class CausalLanguageModelling:
    """See what came before in the chunk, predict the next token."""

    setting: BatchSetting
    close_every_chunk: bool = False

    name: ClassVar[str] = "clm"
    mask_kind: ClassVar[MaskKind] = "causal"

    def train_batch(self, rows: Sequence[Row], samples: Sequence[int], tokens_before: int = 0) -> PackedBatch:
        """Build a micro-batch; nothing in it is drawn, so the sample numbers do not matter."""
        return self.eval_batch(rows)

    def eval_batch(self, rows: Sequence[Row]) -> PackedBatch:
        """Build a batch; every token is scored but [CLS]."""
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
