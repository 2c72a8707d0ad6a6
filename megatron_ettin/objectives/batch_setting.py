"""What both objectives need to build a batch."""

from __future__ import annotations

from dataclasses import dataclass

EVAL_SEED = 1_000_003
"""Of the masks in evaluation: the same for every run, so that validation losses of different runs compare."""


@dataclass(frozen=True)
class BatchSetting:
    """Special tokens, seeds and padding."""

    cls_id: int
    sep_id: int
    pad_id: int
    mask_id: int | None
    seed: int
    pad_multiple: int = 1
    """Tokens of a micro-batch are filled up to a multiple of this, which sequence parallelism splits and FP8 needs."""
    eval_seed: int = EVAL_SEED

    @property
    def never_targets(self) -> frozenset[int]:
        """Tokens that no model is asked to predict."""
        return frozenset(token for token in (self.cls_id, self.pad_id, self.mask_id) if token is not None)
