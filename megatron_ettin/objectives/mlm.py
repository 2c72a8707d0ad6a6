"""Masked language modelling, which trains an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from megatron_ettin.config.data import DataConfig
from megatron_ettin.config.objectives import ObjectiveTraits
from megatron_ettin.data.batch import PackedBatch, assemble, make_batch
from megatron_ettin.data.chunks import Chunk
from megatron_ettin.data.corpus.token_bytes import word_starts
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.masking import Masker, chunk_generators, sample_generators
from megatron_ettin.data.rows import Row
from megatron_ettin.objectives.objective import BatchSetting, Objective


@dataclass(frozen=True)
class MaskedLanguageModelling(Objective):
    """Hide a share of the tokens and predict them from the whole chunk."""

    masker: Masker

    @classmethod
    def build(cls, traits: ObjectiveTraits, setting: BatchSetting, data: DataConfig, tokenizer: TokenizerFiles) -> Self:
        """Build the objective with its masker.

        Raises:
            ConfigError: whole words are to be masked, and the tokenizer does not mark where words start.
        """
        return cls(traits, setting, data, build_masker(data, tokenizer))

    def train_batch(self, rows: Sequence[Row], samples: Sequence[int], tokens_before: int = 0) -> PackedBatch:
        """Build a micro-batch; its masks depend only on seed, phase, global sample numbers and schedule."""
        with sample_generators(self.setting.seed, samples, self.setting.phase) as generators:
            return self._batch(rows, generators, self.data.mask_ratio(tokens_before))

    def eval_batch(self, rows: Sequence[Row]) -> PackedBatch:
        """Build an evaluation batch; its masks depend only on document and chunk."""
        chunks = [chunk for row in rows for chunk in row]
        with chunk_generators(self.setting.eval_seed, [_place(chunk) for chunk in chunks]) as generators:
            return self._batch([(chunk,) for chunk in chunks], generators, self.data.eval_mlm_probability)

    def _batch(
        self, groups: Sequence[Sequence[Chunk]], generators: Sequence[np.random.Generator], probability: float
    ) -> PackedBatch:
        """Concatenate all chunks and mask each group of them with its own generator."""
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
    """Return two numbers that identify a chunk among all chunks of a blend."""
    return chunk.document + (chunk.source << 40), chunk.index


def build_masker(data: DataConfig, tokenizer: TokenizerFiles) -> Masker:
    """Build what selects and hides tokens; raises as :meth:`MaskedLanguageModelling.build`."""
    assert tokenizer.mask_id is not None
    return Masker(
        mask_id=tokenizer.mask_id,
        special_ids=tokenizer.special_ids,
        num_tokens=tokenizer.size,
        word_starts=word_starts(tokenizer, "--masking whole-word") if data.masking == "whole-word" else None,
        span_length=data.mask_span_length if data.masking == "span" else 0.0,
    )
