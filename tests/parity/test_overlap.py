"""Communication beside the computation changes no bit, and a checkpoint holds the weights of its own step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.checkpoint.training import Case, launch
from tests.helpers.distributed import run_ranks

SHARDED = (("use_distributed_optimizer", True), ("optimizer", "stable_adamw"), ("clip_grad", 0.0))
REDUCE = (*SHARDED, ("overlap_grad_reduce", True))
GATHER = (*REDUCE, ("overlap_param_gather", True))


@pytest.mark.parametrize("overrides", [REDUCE, GATHER], ids=["reduce", "reduce-and-gather"])
def test_losses_and_checkpoint_are_the_same_to_the_bit(overrides: tuple[tuple[str, Any], ...], tmp_path: Path) -> None:
    plain, *_ = run_ranks(2, launch, Case(6, overrides=SHARDED))
    beside, *_ = run_ranks(2, launch, Case(6, save=str(tmp_path), save_at=3, overrides=overrides))
    assert beside["losses"] == plain["losses"]
    resumed, *_ = run_ranks(2, launch, Case(6, load=beside["folder"], overrides=SHARDED))
    assert resumed["losses"] == plain["losses"][3:]
