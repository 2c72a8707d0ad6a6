"""Recomputed activations give bit-equal losses, with dropout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.helpers.distributed import run_ranks
from tests.helpers.runs import TINY, tiny_run


def losses(objective: str, overrides: dict[str, Any]) -> list[float]:
    from tests.helpers.training import start_training, train_steps

    config = tiny_run(objective, model=replace(TINY, attention_output_dropout=0.1), **overrides)
    return [result.sums.loss for result in train_steps(start_training(config), range(3))]


@pytest.mark.parametrize("objective", ["mlm", "clm"])
@pytest.mark.parametrize("layout", [{}, {"tensor_model_parallel_size": 2, "sequence_parallel": True}])
def test_losses_are_bit_equal(objective: str, layout: dict[str, Any]) -> None:
    ranks = layout.get("tensor_model_parallel_size", 1)
    expected = run_ranks(ranks, losses, objective, layout)
    for recompute in (
        {"recompute_granularity": "selective"},
        {"recompute_granularity": "full"},
        {"recompute_granularity": "full", "recompute_num_layers": 2},
    ):
        assert run_ranks(ranks, losses, objective, layout | recompute) == expected, recompute


def test_pipeline_stages_recompute() -> None:
    layout = {"pipeline_model_parallel_size": 2}
    expected = run_ranks(2, losses, "mlm", layout)
    recomputed = run_ranks(2, losses, "mlm", layout | {"recompute_granularity": "full", "recompute_num_layers": 3})
    assert recomputed == expected
