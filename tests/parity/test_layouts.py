"""Losses over 20 steps at any layout equal those of one rank."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.helpers.distributed import run_ranks
from tests.helpers.runs import TINY, tiny_run
from tests.helpers.training import start_training, train_steps

STEPS = 20

LAYOUTS = {
    "tp2": (2, {"tensor_model_parallel_size": 2}),
    "pp2": (2, {"pipeline_model_parallel_size": 2}),
    "dp2": (2, {}),
    "dp2-distributed-optimizer": (2, {"use_distributed_optimizer": True}),
    "tp2-sequence-parallel": (2, {"tensor_model_parallel_size": 2, "sequence_parallel": True}),
    "tp2-pp2": (4, {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2}),
}


def train(objective: str, overrides: dict[str, Any], steps: int = STEPS, **model: Any) -> dict[str, list[float]]:
    """Train on this rank's share of the global batches; return losses and gradient norms."""
    config = tiny_run(objective, model=replace(TINY, **model), **overrides)
    results = train_steps(start_training(config), range(steps))
    return {"losses": [r.sums.loss for r in results], "norms": [r.gradient_norm for r in results]}


@pytest.fixture(scope="module")
def one_rank() -> dict[str, Any]:
    return {objective: run_ranks(1, train, objective, {})[0] for objective in ("mlm", "clm")}


@pytest.mark.parametrize("objective", ["mlm", "clm"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_equal_one_rank(layout: str, objective: str, one_rank: dict[str, Any]) -> None:
    world_size, overrides = LAYOUTS[layout]
    results = run_ranks(world_size, train, objective, overrides)
    expected = one_rank[objective]
    assert expected["losses"][-1] < expected["losses"][0] - 0.1, "the reference learned nothing"
    for result in results:
        np.testing.assert_allclose(result["losses"], expected["losses"], rtol=1e-5)
        np.testing.assert_allclose(result["norms"], expected["norms"], rtol=1e-4)


@pytest.mark.parametrize("num_layers", [7, 19])
def test_uneven_stages_equal_one_rank(num_layers: int) -> None:
    steps = 3
    expected = run_ranks(1, train, "mlm", {}, steps, num_layers=num_layers)[0]
    results = run_ranks(2, train, "mlm", {"pipeline_model_parallel_size": 2}, steps, num_layers=num_layers)
    for result in results:
        np.testing.assert_allclose(result["losses"], expected["losses"], rtol=1e-5)


def test_padded_vocabulary_does_not_change_the_loss() -> None:
    """With 131 tokens TP=1 pads to 136 rows and TP=2 to 144; the padding must not enter the softmax."""
    steps = 5
    expected = run_ranks(1, train, "clm", {}, steps, vocab_size=131)[0]
    results = run_ranks(2, train, "clm", {"tensor_model_parallel_size": 2}, steps, vocab_size=131)
    np.testing.assert_allclose(results[0]["losses"], expected["losses"], rtol=1e-5)


@pytest.mark.parametrize("overrides", [{}, {"tensor_model_parallel_size": 2, "sequence_parallel": True}])
def test_dropout_is_reproducible_bit_for_bit(overrides: dict[str, Any]) -> None:
    first = run_ranks(2, train, "mlm", overrides, 5, attention_output_dropout=0.1)
    second = run_ranks(2, train, "mlm", overrides, 5, attention_output_dropout=0.1)
    without = run_ranks(2, train, "mlm", overrides, 5)
    assert first == second
    assert first[0]["losses"] != without[0]["losses"]
