"""The objective: the whole difference between an encoder and a decoder of a pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from megatron_ettin.config.backend import row_multiple
from megatron_ettin.config.data import DataConfig
from megatron_ettin.config.layer_pattern import MaskKind
from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.data.corpus.token_bytes import word_starts
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.masking import Masker
from megatron_ettin.data.rows import Row
from megatron_ettin.objectives.batch_setting import BatchSetting
from megatron_ettin.objectives.clm import CausalLanguageModelling
from megatron_ettin.objectives.mlm import MaskedLanguageModelling
from megatron_ettin.objectives.mntp import MaskedNextTokenPrediction

_MASKING: Mapping[str, type[MaskedLanguageModelling]] = MappingProxyType(
    {"mlm": MaskedLanguageModelling, "mntp": MaskedNextTokenPrediction}
)


class Objective(Protocol):
    """Who sees whom, and what is scored."""

    @property
    def name(self) -> str:
        """``mlm``, ``clm`` or ``mntp``."""

    @property
    def mask_kind(self) -> MaskKind:
        """Whether a token sees its whole chunk or only what came before."""

    @property
    def close_every_chunk(self) -> bool:
        """Whether [SEP] stands behind every chunk, or only where a document ends."""

    def train_batch(self, rows: Sequence[Row], samples: Sequence[int], tokens_before: int = 0) -> PackedBatch:
        """Build a training micro-batch from rows, their global sample numbers, and the tokens before its step."""

    def eval_batch(self, rows: Sequence[Row]) -> PackedBatch:
        """Build a batch of an evaluation; it is the same in every run and layout."""


def build_objective(config: RunConfig, tokenizer: TokenizerFiles) -> Objective:
    """Build the objective of a run; preflight has checked that the tokenizer has what it needs."""
    shards = config.parallel.tensor_model_parallel_size if config.parallel.sequence_parallel else 1
    assert tokenizer.cls_id is not None
    assert tokenizer.sep_id is not None
    assert tokenizer.pad_id is not None
    setting = BatchSetting(
        cls_id=tokenizer.cls_id,
        sep_id=tokenizer.sep_id,
        pad_id=tokenizer.pad_id,
        mask_id=tokenizer.mask_id,
        seed=config.training.seed,
        pad_multiple=shards * row_multiple(config.backend),
    )
    if config.training.objective == "clm":
        return CausalLanguageModelling(setting, close_every_chunk(config))
    assert config.training.objective in _MASKING
    kind = _MASKING[config.training.objective]
    return kind(setting, build_masker(config.data, tokenizer), config.data)


def close_every_chunk(config: RunConfig) -> bool:
    """Whether [SEP] stands behind every chunk of a document: always with a masking objective."""
    return config.training.objective in _MASKING or config.data.close_every_piece


def build_masker(data: DataConfig, tokenizer: TokenizerFiles) -> Masker:
    """Build what chooses and hides tokens.

    Raises:
        ConfigError: whole words are asked for, and the tokenizer does not tell where they begin.
    """
    assert tokenizer.mask_id is not None
    return Masker(
        mask_id=tokenizer.mask_id,
        special_ids=tokenizer.special_ids,
        num_tokens=tokenizer.size,
        word_starts=word_starts(tokenizer, "--masking whole-word") if data.masking == "whole-word" else None,
        span_length=data.mask_span_length if data.masking == "span" else 0.0,
    )
