"""Masked language modelling: what makes an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from megatron_ettin.config.attention import MaskKind
from megatron_ettin.config.data import DataConfig
from megatron_ettin.config.mask_schedule import mask_ratio
from megatron_ettin.data.assembly import assemble, make_batch
from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.data.masking import Masker, piece_generators, sample_generators
from megatron_ettin.data.pieces import Piece
from megatron_ettin.data.rows import Row
from megatron_ettin.objectives.setting import BatchSetting


@dataclass(frozen=True)
class MaskedLanguageModelling:
    """Hide some tokens, see the whole piece, predict what was hidden."""

    setting: BatchSetting
    masker: Masker
    data: DataConfig
    """Tells the share that is scored."""

    name: ClassVar[str] = "mlm"
    mask_kind: ClassVar[MaskKind] = "bidirectional"
    closes_every_piece: ClassVar[bool] = True

    def train_batch(self, rows: Sequence[Row], samples: Sequence[int], tokens_before: int = 0) -> PackedBatch:
        """Build a micro-batch; what is hidden depends on the seed, the global sample numbers and the schedule only."""
        generators = sample_generators(self.setting.seed, samples)
        return self._batch(rows, generators, mask_ratio(self.data, tokens_before))

    def eval_batch(self, rows: Sequence[Row]) -> PackedBatch:
        """Build a batch of an evaluation; what is hidden depends on the document and the piece only."""
        pieces = [piece for row in rows for piece in row]
        generators = piece_generators(self.setting.eval_seed, [_place(piece) for piece in pieces])
        return self._batch([(piece,) for piece in pieces], generators, self.data.eval_mlm_probability)

    def _batch(
        self, groups: Sequence[Sequence[Piece]], generators: Sequence[np.random.Generator], probability: float
    ) -> PackedBatch:
        """Lay all pieces end to end and mask each group of them with a generator of its own."""
        setting = self.setting
        pieces = [piece for group in groups for piece in group]
        packed = assemble(
            pieces, cls_id=setting.cls_id, sep_id=setting.sep_id, close_every_piece=self.closes_every_piece
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


def _place(piece: Piece) -> tuple[int, int]:
    """Return two numbers that no other piece of a blend has."""
    return piece.document + (piece.source << 40), piece.index
