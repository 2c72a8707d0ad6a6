"""Masked language modelling: what makes an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from megatron_ettin.config.attention import MaskKind
from megatron_ettin.data.assembly import assemble, make_batch
from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.data.masking import Masker, piece_generator, sample_generator
from megatron_ettin.data.pieces import Piece
from megatron_ettin.data.rows import Row
from megatron_ettin.objectives.setting import BatchSetting


@dataclass(frozen=True)
class MaskedLanguageModelling:
    """Hide some tokens, see the whole piece, predict what was hidden."""

    setting: BatchSetting
    masker: Masker
    train_probability: float
    eval_probability: float

    name: ClassVar[str] = "mlm"
    mask_kind: ClassVar[MaskKind] = "bidirectional"

    def train_batch(self, rows: Sequence[Row], samples: Sequence[int]) -> PackedBatch:
        """Build a micro-batch; what is hidden depends on the seed and the global sample numbers only."""
        generators = [sample_generator(self.setting.seed, sample) for sample in samples]
        return self._batch(rows, generators, self.train_probability)

    def eval_batch(self, rows: Sequence[Row]) -> PackedBatch:
        """Build a batch of an evaluation; what is hidden depends on the document and the piece only."""
        pieces = [piece for row in rows for piece in row]
        generators = [piece_generator(self.setting.eval_seed, piece.document, piece.index) for piece in pieces]
        return self._batch([(piece,) for piece in pieces], generators, self.eval_probability)

    def _batch(
        self, groups: Sequence[Sequence[Piece]], generators: Sequence[np.random.Generator], probability: float
    ) -> PackedBatch:
        """Lay all pieces end to end and mask each group of them with a generator of its own."""
        setting = self.setting
        pieces = [piece for group in groups for piece in group]
        packed = assemble(pieces, cls_id=setting.cls_id, sep_id=setting.sep_id, close_every_piece=True)
        chosen_T = np.zeros(len(packed.tokens_T), dtype=bool)
        inputs_T = packed.tokens_T.copy()
        group_starts = packed.cu_seqlens[np.cumsum([0, *(len(group) for group in groups)])]
        for rng, start, end in zip(generators, group_starts, group_starts[1:], strict=False):
            span = slice(start, end)
            tokens = packed.tokens_T[span]
            chosen_T[span] = self.masker.choose(tokens, packed.content_T[span], probability, rng)
            inputs_T[span] = self.masker.replace(tokens, chosen_T[span], rng)
        scored_K = np.flatnonzero(chosen_T)
        return make_batch(
            packed,
            inputs_T=inputs_T,
            scored_K=scored_K,
            labels_K=packed.tokens_T[scored_K],
            pad_id=setting.pad_id,
            pad_multiple=setting.pad_multiple,
        )
