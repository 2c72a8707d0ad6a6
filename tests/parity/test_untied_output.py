"""An untied output matrix is initialised and trained equally at any layout, independently of the embedding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from megatron_ettin.config.run import RunConfig
from tests.helpers.distributed import run_ranks
from tests.helpers.runs import TINY, tiny_run
from tests.helpers.shards import Shard, assemble, rank_shards
from tests.helpers.training import start_training, train_steps

STEPS = 6
UNTIED = replace(TINY, vocab_size=131, untie_embeddings_and_output_weights=True)
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "tp2": (2, {"tensor_model_parallel_size": 2}),
    "pp2": (2, {"pipeline_model_parallel_size": 2}),
    "tp2-pp2": (4, {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2}),
    "dp2-distributed-optimizer": (2, {"use_distributed_optimizer": True}),
}


def train(config: RunConfig) -> tuple[list[Shard], list[Shard], list[float]]:
    """Return this rank's weights before and after some steps, and the losses."""
    training = start_training(config)
    before = rank_shards(training.model)
    results = train_steps(training, range(STEPS))
    return before, rank_shards(training.model), [result.sums.loss for result in results]


def trained(objective: str, world_size: int, overrides: dict[str, Any]) -> tuple[Any, Any, list[float]]:
    config = tiny_run(objective, model=UNTIED, **overrides)
    before, after, losses = zip(*run_ranks(world_size, train, config), strict=True)
    assert all(of_rank == losses[0] for of_rank in losses)
    return assemble(list(before)), assemble(list(after)), losses[0]


@pytest.fixture(scope="module", params=["mlm", "clm"])
def one_rank(request: pytest.FixtureRequest) -> tuple[str, Any, Any, list[float]]:
    return request.param, *trained(request.param, 1, {})


def test_embedding_and_output_differ_and_both_train(one_rank: Any) -> None:
    _, before, after, losses = one_rank
    assert losses[-1] < losses[0]
    for name in ("embedding.word_embeddings.weight", "output_layer.weight"):
        assert before[name].shape == (136, UNTIED.hidden_size)
        assert not np.array_equal(before[name], after[name]), name
    for weights in (before, after):
        assert not np.array_equal(weights["embedding.word_embeddings.weight"], weights["output_layer.weight"])
        assert not weights["output_layer.weight"][131:].any(), "rows that only pad"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_equals_one_rank(layout: str, one_rank: Any) -> None:
    objective, before, after, losses = one_rank
    split_before, split_after, split_losses = trained(objective, *LAYOUTS[layout])
    np.testing.assert_allclose(split_losses, losses, rtol=1e-5)
    assert split_before.keys() == before.keys()
    for name in before:
        rows = 131 if len(before[name]) == 136 else len(before[name])
        np.testing.assert_array_equal(split_before[name][:rows], before[name][:rows], err_msg=name)
        np.testing.assert_allclose(split_after[name][:rows], after[name][:rows], atol=2e-4, err_msg=name)
