"""Activations computed again are those that were computed first: the same losses to the bit, dropout included."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.helpers.distributed import run_ranks
from tests.helpers.runs import TINY, tiny_run


def losses(objective: str, overrides: dict[str, Any]) -> list[float]:
    from tests.helpers.training import start_training, train_steps

    config = tiny_run(objective, model=replace(TINY, attention_output_dropout=0.1), **overrides)
    return [result.sums.loss for result in train_steps(start_training(config), range(4))]


@pytest.mark.parametrize("objective", ["mlm", "clm"])
@pytest.mark.parametrize("layout", [{}, {"tensor_model_parallel_size": 2, "sequence_parallel": True}])
def test_losses_are_the_same_to_the_bit(objective: str, layout: dict[str, Any]) -> None:
    ranks = layout.get("tensor_model_parallel_size", 1)
    kept = run_ranks(ranks, losses, objective, layout)
    for chosen in (
        {"recompute_granularity": "selective"},
        {"recompute_granularity": "full"},
        {"recompute_granularity": "full", "recompute_num_layers": 2},
    ):
        assert run_ranks(ranks, losses, objective, layout | chosen) == kept, chosen


def test_a_pipeline_recomputes_its_stages() -> None:
    layout = {"pipeline_model_parallel_size": 2}
    kept = run_ranks(2, losses, "mlm", layout)
    again = run_ranks(2, losses, "mlm", layout | {"recompute_granularity": "full", "recompute_num_layers": 3})
    assert again == kept
