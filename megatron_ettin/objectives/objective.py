"""Objectives: how rows become model inputs and scored targets, which is all that differs within a pair."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Self

from megatron_ettin.config.backend import row_multiple
from megatron_ettin.config.data import DataConfig
from megatron_ettin.config.objectives import OBJECTIVES, ObjectiveTraits
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.training import PHASES
from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.rows import Row

EVAL_SEED = 1_000_003
"""Seed of the evaluation masks: the same for every run, so that validation losses of different runs compare."""


@dataclass(frozen=True)
class BatchSetting:
    """Special tokens, seeds and padding of a batch."""

    cls_id: int
    sep_id: int
    pad_id: int
    mask_id: int | None
    seed: int
    pad_multiple: int = 1
    """Tokens of a micro-batch are padded to a multiple of this, for sequence parallelism and FP8."""
    eval_seed: int = EVAL_SEED
    phase: int = 0
    """Number of the phase, which keys masks along with the seed."""
    other_delimiters: frozenset[int] = frozenset()
    """Further tokens that start or end texts, which a document may contain."""

    @property
    def never_targets(self) -> frozenset[int]:
        """Tokens that are never predicted from left to right: all with a role but the end of a text."""
        roles = {self.cls_id, self.pad_id, self.mask_id, *self.other_delimiters} - {self.sep_id}
        return frozenset(token for token in roles if token is not None)


@dataclass(frozen=True)
class Objective(ABC):
    """Builds the batches of one objective; stateless, so that any thread may call it."""

    traits: ObjectiveTraits
    setting: BatchSetting
    data: DataConfig

    @classmethod
    def build(cls, traits: ObjectiveTraits, setting: BatchSetting, data: DataConfig, tokenizer: TokenizerFiles) -> Self:
        """Build the objective; subclasses read from the tokenizer what else they need."""
        return cls(traits, setting, data)

    @property
    def close_every_chunk(self) -> bool:
        """Whether [SEP] follows every chunk, or only the last one of a document."""
        return self.traits.close_every_chunk or self.data.close_every_piece

    @abstractmethod
    def train_batch(self, rows: Sequence[Row], samples: Sequence[int], tokens_before: int = 0) -> PackedBatch:
        """Build a training micro-batch.

        Args:
            rows: packed rows.
            samples: their global sample numbers, which key what is drawn.
            tokens_before: tokens trained before the step.
        """

    @abstractmethod
    def eval_batch(self, rows: Sequence[Row]) -> PackedBatch:
        """Build an evaluation batch, the same in every run and layout."""


def build_objective(config: RunConfig, tokenizer: TokenizerFiles) -> Objective:
    """Build the objective of a run; preflight has checked that the tokenizer has the special tokens.

    Raises:
        ConfigError: whole words are to be masked, and the tokenizer does not mark where words start.
    """
    shards = config.parallel.tensor_model_parallel_size if config.parallel.sequence_parallel else 1
    sep_id = tokenizer.closing_id(config.training.objective)
    assert tokenizer.cls_id is not None
    assert sep_id is not None
    assert tokenizer.pad_id is not None
    setting = BatchSetting(
        cls_id=tokenizer.cls_id,
        sep_id=sep_id,
        pad_id=tokenizer.pad_id,
        mask_id=tokenizer.mask_id,
        seed=config.training.seed,
        phase=PHASES.index(config.training.phase) if config.data.data_version > 1 else 0,
        pad_multiple=shards * row_multiple(config.backend),
        other_delimiters=frozenset(
            tokenizer.roles[role].id for role in ("bos", "sep", "eos") if role in tokenizer.roles
        ),
    )
    traits = OBJECTIVES[config.training.objective]
    module, _, name = traits.implementation.partition(":")
    implementation: type[Objective] = getattr(import_module(module), name)
    return implementation.build(traits, setting, config.data, tokenizer)


def close_every_chunk(config: RunConfig) -> bool:
    """Whether [SEP] follows every chunk of a run's documents; see :attr:`Objective.close_every_chunk`."""
    return OBJECTIVES[config.training.objective].close_every_chunk or config.data.close_every_piece
