"""Masked language modelling: what makes an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from megatron_ettin.config.data import DataConfig
from megatron_ettin.config.layer_pattern import MaskKind
from megatron_ettin.config.mask_schedule import mask_ratio
from megatron_ettin.data.batch import PackedBatch, assemble, make_batch
from megatron_ettin.data.chunks import Chunk
from megatron_ettin.data.masking import Masker, chunk_generators, sample_generators
from megatron_ettin.data.rows import Row
from megatron_ettin.objectives.batch_setting import BatchSetting


@dataclass(frozen=True)
class MaskedLanguageModelling:
    """Hide some tokens, see the whole chunk, predict what was hidden."""

    setting: BatchSetting
    masker: Masker
    data: DataConfig
    """Tells the share that is scored."""

    name: ClassVar[str] = "mlm"
    mask_kind: ClassVar[MaskKind] = "bidirectional"
    close_every_chunk: ClassVar[bool] = True

    def train_batch(self, rows: Sequence[Row], samples: Sequence[int], tokens_before: int = 0) -> PackedBatch:
        """Build a micro-batch; what is hidden depends on the seed, the global sample numbers and the schedule only."""
        with sample_generators(self.setting.seed, samples) as generators:
            return self._batch(rows, generators, mask_ratio(self.data, tokens_before))

    def eval_batch(self, rows: Sequence[Row]) -> PackedBatch:
        """Build a batch of an evaluation; what is hidden depends on the document and the chunk only."""
        chunks = [chunk for row in rows for chunk in row]
        with chunk_generators(self.setting.eval_seed, [_place(chunk) for chunk in chunks]) as generators:
            return self._batch([(chunk,) for chunk in chunks], generators, self.data.eval_mlm_probability)

    def _batch(
        self, groups: Sequence[Sequence[Chunk]], generators: Sequence[np.random.Generator], probability: float
    ) -> PackedBatch:
        """Lay all chunks end to end and mask each group of them with a generator of its own."""
        setting = self.setting
        chunks = [chunk for group in groups for chunk in group]
        packed = assemble(
            chunks, cls_id=setting.cls_id, sep_id=setting.sep_id, close_every_chunk=self.close_every_chunk
        )
        group_starts = packed.cu_seqlens[np.cumsum([0, *(len(group) for group in groups)])]
        chosen_T, inputs_T = self.masker.mask(packed.tokens_T, packed.content_T, group_starts, generators, probability)
        scored_K = np.flatnonzero(chosen_T)
        return make_batch(
            packed,
            inputs_T=inputs_T,
            scored_K=scored_K,
            labels_K=packed.tokens_T[scored_K],
            pad_id=setting.pad_id,
            pad_multiple=setting.pad_multiple,
        )


def _place(chunk: Chunk) -> tuple[int, int]:
    """Return two numbers that no other chunk of a blend has."""
    return chunk.document + (chunk.source << 40), chunk.index
