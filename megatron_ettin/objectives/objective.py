"""The objective: the whole difference between an encoder and a decoder of a pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from megatron_ettin.config.attention import MaskKind
from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.data.masking import Masker
from megatron_ettin.data.rows import Row
from megatron_ettin.data.tokenizer import TokenizerFiles
from megatron_ettin.objectives.clm import CausalLanguageModelling
from megatron_ettin.objectives.mlm import MaskedLanguageModelling
from megatron_ettin.objectives.mntp import MaskedNextTokenPrediction
from megatron_ettin.objectives.setting import BatchSetting

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
        """Whether a token sees its whole piece or only what came before."""

    def train_batch(self, rows: Sequence[Row], samples: Sequence[int]) -> PackedBatch:
        """Build a training micro-batch from rows and their global sample numbers."""

    def eval_batch(self, rows: Sequence[Row]) -> PackedBatch:
        """Build a batch of an evaluation; it is the same in every run and layout."""


def build_objective(run: RunConfig, tokenizer: TokenizerFiles) -> Objective:
    """Build the objective of a run; preflight has checked that the tokenizer has what it needs."""
    parallel = run.parallel
    assert tokenizer.cls_id is not None
    assert tokenizer.sep_id is not None
    assert tokenizer.pad_id is not None
    setting = BatchSetting(
        cls_id=tokenizer.cls_id,
        sep_id=tokenizer.sep_id,
        pad_id=tokenizer.pad_id,
        mask_id=tokenizer.mask_id,
        seed=run.training.seed,
        pad_multiple=parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1,
    )
    if run.training.objective == "clm":
        return CausalLanguageModelling(setting)
    assert run.training.objective in _MASKING
    assert tokenizer.mask_id is not None
    masker = Masker(mask_id=tokenizer.mask_id, special_ids=tokenizer.special_ids, num_tokens=tokenizer.size)
    kind = _MASKING[run.training.objective]
    return kind(setting, masker, run.data.mlm_probability, run.data.eval_mlm_probability)
