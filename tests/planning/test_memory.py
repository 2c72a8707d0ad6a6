"""The memory estimate against the tensors that a model stores, and its closed form against hand arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from megatron_ettin.config.run import RunConfig
from megatron_ettin.planning.memory import MemoryEstimate, estimate_memory
from megatron_ettin.planning.model_size import count_parameters
from tests.helpers.batches import packed_batch, random_chunks
from tests.helpers.distributed import run_ranks
from tests.helpers.runs import TINY, tiny_run

SHAPE = replace(TINY, num_layers=7, hidden_size=128, ffn_hidden_size=192, sliding_window=64, vocab_size=512)


def estimate(config: RunConfig, world_size: int = 1) -> tuple[MemoryEstimate, ...]:
    return estimate_memory(config, world_size)


def stored_bytes(config: RunConfig) -> int:
    """Run one forward pass over a full micro-batch and return the bytes stored for backward."""
    import torch

    from megatron_ettin.model.packed_layout import PackedLayout
    from tests.helpers.models import build_stage

    model = build_stage(config).train()
    positions = config.training.micro_batch_size * config.data.seq_length
    chunks = random_chunks(np.random.default_rng(0), [positions // 3, positions - positions // 3], 512)
    batch = packed_batch(chunks, causal=config.training.objective == "clm")
    layout = PackedLayout.build(
        torch.from_numpy(batch.cu_seqlens), torch.from_numpy(batch.positions_T), tuple(map(len, chunks))
    )
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    stored: dict[int, torch.Tensor] = {}

    def store(tensor: Any) -> Any:
        stored[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(store, lambda tensor: tensor):
        arrays = (batch.tokens_T, batch.scored_K, batch.labels_K)
        tokens, scored, labels = (torch.from_numpy(array) for array in arrays)
        loss, _ = model(tokens, layout, scored, labels)
    for gradient in loss.grad_fn.gradients:
        store(gradient)
    return sum(tensor.untyped_storage().nbytes() for place, tensor in stored.items() if place not in weights)


@pytest.mark.parametrize("objective", ["mlm", "clm"])
@pytest.mark.parametrize("precision", [{}, {"bf16": True, "fp32_residual_connection": True}], ids=["fp32", "residual"])
def test_activations_equal_those_a_model_stores(objective: str, precision: dict[str, Any]) -> None:
    model = replace(SHAPE, attention_output_dropout=0.1)
    config = tiny_run(objective, model=model, seq_length=512, micro_batch_size=2, **precision)
    [measured] = run_ranks(1, stored_bytes, config)
    scored = 1024 * (0.3 if objective == "mlm" else 1.0)
    logits = scored * 512 * 4  # in one chunk
    assert estimate(config)[0].activations == pytest.approx(measured + logits, rel=0.03)


@pytest.mark.parametrize(
    "recomputation",
    [
        {"recompute_granularity": "selective"},
        {"recompute_granularity": "full"},
        {"recompute_granularity": "full", "recompute_num_layers": 3},
    ],
)
def test_recomputed_activations_are_not_stored(recomputation: dict[str, Any]) -> None:
    # The output matrix is large enough that the recomputed activations of one layer take less than its gradient.
    model = replace(SHAPE, attention_output_dropout=0.1, vocab_size=16384)
    config = tiny_run("mlm", model=model, seq_length=512, micro_batch_size=2, **recomputation)
    [measured] = run_ranks(1, stored_bytes, config)
    logits = 1024 * 0.3 * 16384 * 4
    assert estimate(config)[0].activations == pytest.approx(measured + logits, rel=0.03)


def test_fp32_adamw_takes_sixteen_bytes_per_parameter() -> None:
    config = tiny_run("mlm", model=SHAPE)
    [rank] = estimate(config)
    count = count_parameters(SHAPE).total
    assert (rank.parameters, rank.gradients, rank.optimizer_state) == (4 * count, 4 * count, 8 * count)
    assert rank.total == 16 * count + rank.activations


def test_bf16_adds_an_fp32_master_copy() -> None:
    config = tiny_run("mlm", model=SHAPE, bf16=True)
    [rank] = estimate(config)
    count = count_parameters(SHAPE).total
    assert (rank.parameters, rank.gradients, rank.optimizer_state) == (2 * count, 4 * count, 12 * count)


def test_distributed_optimizer_shards_only_optimizer_state() -> None:
    full = estimate(tiny_run("mlm", model=SHAPE), world_size=4)[0]
    sharded = estimate(tiny_run("mlm", model=SHAPE, use_distributed_optimizer=True), world_size=4)[0]
    assert sharded == replace(full, optimizer_state=-(-full.optimizer_state // 4))


def optimizer_bytes(config: RunConfig) -> int:
    """Build the optimizer and return the bytes of its state."""
    from tests.helpers.training import start_training

    states = start_training(config).optimizer.optimizer.state.values()
    return sum(tensor.numel() * tensor.element_size() for state in states for tensor in state.values())


@pytest.mark.parametrize("optimizer", ["adamw", "stable_adamw", "muon"])
@pytest.mark.parametrize("stages", [1, 2])
def test_optimizer_state_equals_that_of_a_built_optimizer(optimizer: str, stages: int) -> None:
    config = tiny_run("mlm", model=SHAPE, optimizer=optimizer, pipeline_model_parallel_size=stages)
    measured = run_ranks(stages, optimizer_bytes, config)
    assert [stage.optimizer_state for stage in estimate(config, stages)] == measured


def test_parallelism_reduces_memory_per_rank() -> None:
    def total(**overrides: Any) -> int:
        config = tiny_run("mlm", model=SHAPE, seq_length=512, **overrides)
        size = config.parallel.tensor_model_parallel_size * config.parallel.pipeline_model_parallel_size
        return max(rank.total for rank in estimate(config, size))

    assert total(tensor_model_parallel_size=2, sequence_parallel=True) < total(tensor_model_parallel_size=2) < total()
    assert total(pipeline_model_parallel_size=2) < total()


def test_early_stages_have_more_micro_batches_in_flight() -> None:
    model = replace(SHAPE, num_layers=9, global_attention_every=1)
    stages = estimate(tiny_run("mlm", model=model, pipeline_model_parallel_size=3, global_batch_size=8), 3)
    one_batch = estimate(tiny_run("mlm", model=model, pipeline_model_parallel_size=3, global_batch_size=1), 3)
    assert stages[0].activations == 3 * one_batch[0].activations
    assert stages[1].activations == 2 * one_batch[1].activations
    assert stages[2].activations == one_batch[2].activations


def test_memory_of_the_head_follows_the_mask_ratio() -> None:
    few = estimate(tiny_run("mlm", model=SHAPE, seq_length=1000, mlm_probability=0.15))[0].activations
    many = estimate(tiny_run("mlm", model=SHAPE, seq_length=1000, mlm_probability=0.3))[0].activations
    per_scored_token = (3 + 1) * 128 * 4 + 512 * 4
    assert many - few == 150 * per_scored_token
