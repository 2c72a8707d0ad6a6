"""Overlapped communication changes no bit of the losses, and checkpoints contain the weights of their step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.checkpoint.training import Case, launch, start
from tests.helpers.distributed import run_ranks

SHARDED = (("use_distributed_optimizer", True), ("optimizer", "stable_adamw"), ("clip_grad", 0.0))
REDUCE = (*SHARDED, ("overlap_grad_reduce", True))
GATHER = (*REDUCE, ("overlap_param_gather", True))
PLAIN = (("clip_grad", 0.1),)


@pytest.mark.parametrize(
    ("baseline", "overlapped"),
    [(SHARDED, REDUCE), (SHARDED, GATHER), (PLAIN, (*PLAIN, ("overlap_grad_reduce", True)))],
    ids=["reduce", "reduce-and-gather", "reduce-unsharded"],
)
def test_losses_and_checkpoint_are_bit_equal(
    baseline: tuple[tuple[str, Any], ...], overlapped: tuple[tuple[str, Any], ...], tmp_path: Path
) -> None:
    expected, *_ = run_ranks(2, launch, Case(6, overrides=baseline))
    result, *_ = run_ranks(2, launch, Case(6, save=str(tmp_path), save_at=3, overrides=overlapped))
    assert result["losses"] == expected["losses"]
    resumed, *_ = run_ranks(2, launch, Case(6, load=result["folder"], overrides=baseline))
    assert resumed["losses"] == expected["losses"][3:]


def core_settings(case: Case) -> dict[str, bool]:
    settings = start(case)[0].wrapped.ddp_config
    return {name: getattr(settings, name) for name, _ in GATHER if hasattr(settings, name)}


def test_flags_reach_megatron_cores_data_parallelism() -> None:
    names = ("use_distributed_optimizer", "overlap_grad_reduce", "overlap_param_gather")
    for overrides, expected in ((PLAIN, (False,) * 3), (REDUCE, (True, True, False)), (GATHER, (True,) * 3)):
        for settings in run_ranks(2, core_settings, Case(1, overrides=overrides)):
            assert settings == dict(zip(names, expected, strict=True))
