"""The memory estimate against what a built model keeps, and its closed form against hand arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from megatron_ettin.config.objectives import mask_kind_of
from megatron_ettin.config.run import RunConfig
from megatron_ettin.planning.memory import MemoryEstimate, estimate_memory
from megatron_ettin.planning.model_size import count_parameters
from tests.helpers.batches import packed_batch, random_chunks
from tests.helpers.distributed import run_ranks
from tests.helpers.runs import TINY, tiny_run

SHAPE = replace(TINY, num_layers=7, hidden_size=128, ffn_hidden_size=192, sliding_window=64, vocab_size=512)


def estimate(config: RunConfig, world_size: int = 1) -> tuple[MemoryEstimate, ...]:
    return estimate_memory(config, world_size, mask_kind_of(config.training.objective))


def kept_bytes(config: RunConfig) -> int:
    """Run one forward pass over a full micro-batch and add up what backward would find."""
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
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: Any) -> Any:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        arrays = (batch.tokens_T, batch.scored_K, batch.labels_K)
        tokens, scored, labels = (torch.from_numpy(array) for array in arrays)
        loss, _ = model(tokens, layout, scored, labels)
    for gradient in loss.grad_fn.gradients:
        keep(gradient)
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)


@pytest.mark.parametrize("objective", ["mlm", "clm"])
@pytest.mark.parametrize("precision", [{}, {"bf16": True, "fp32_residual_connection": True}], ids=["fp32", "residual"])
def test_activations_equal_what_a_model_keeps(objective: str, precision: dict[str, Any]) -> None:
    model = replace(SHAPE, attention_output_dropout=0.1)
    config = tiny_run(objective, model=model, seq_length=512, micro_batch_size=2, **precision)
    [measured] = run_ranks(1, kept_bytes, config)
    scored = 1024 * (0.3 if objective == "mlm" else 1.0)
    logits = scored * 512 * 4  # all at a time: they take less than a chunk may
    assert estimate(config)[0].activations == pytest.approx(measured + logits, rel=0.03)


@pytest.mark.parametrize(
    "chosen",
    [
        {"recompute_granularity": "selective"},
        {"recompute_granularity": "full"},
        {"recompute_granularity": "full", "recompute_num_layers": 3},
    ],
)
def test_recomputed_activations_are_not_kept(chosen: dict[str, Any]) -> None:
    # The output matrix is so large that what is computed again for one layer fits where its gradient was.
    model = replace(SHAPE, attention_output_dropout=0.1, vocab_size=16384)
    config = tiny_run("mlm", model=model, seq_length=512, micro_batch_size=2, **chosen)
    [measured] = run_ranks(1, kept_bytes, config)
    logits = 1024 * 0.3 * 16384 * 4
    assert estimate(config)[0].activations == pytest.approx(measured + logits, rel=0.03)


def test_fp32_adamw_holds_sixteen_bytes_a_parameter() -> None:
    config = tiny_run("mlm", model=SHAPE)
    [rank] = estimate(config)
    count = count_parameters(SHAPE).total
    assert (rank.parameters, rank.gradients, rank.optimizer_state) == (4 * count, 4 * count, 8 * count)
    assert rank.total == 16 * count + rank.activations


def test_bf16_keeps_an_fp32_master() -> None:
    config = tiny_run("mlm", model=SHAPE, bf16=True)
    [rank] = estimate(config)
    count = count_parameters(SHAPE).total
    assert (rank.parameters, rank.gradients, rank.optimizer_state) == (2 * count, 4 * count, 12 * count)


def test_distributed_optimizer_shards_only_optimizer_state() -> None:
    whole = estimate(tiny_run("mlm", model=SHAPE), world_size=4)[0]
    shared = estimate(tiny_run("mlm", model=SHAPE, use_distributed_optimizer=True), world_size=4)[0]
    assert shared == replace(whole, optimizer_state=-(-whole.optimizer_state // 4))


def optimizer_bytes(config: RunConfig) -> int:
    """Build the trainer's optimizer and add up what it keeps."""
    from tests.helpers.training import start_training

    states = start_training(config).optimizer.optimizer.state.values()
    return sum(tensor.numel() * tensor.element_size() for state in states for tensor in state.values())


@pytest.mark.parametrize("optimizer", ["adamw", "stable_adamw", "muon"])
@pytest.mark.parametrize("stages", [1, 2])
def test_optimizer_state_equals_what_an_optimizer_keeps(optimizer: str, stages: int) -> None:
    config = tiny_run("mlm", model=SHAPE, optimizer=optimizer, pipeline_model_parallel_size=stages)
    kept = run_ranks(stages, optimizer_bytes, config)
    assert [stage.optimizer_state for stage in estimate(config, stages)] == kept


def test_parallelism_takes_memory_off_a_rank() -> None:
    def total(**overrides: Any) -> int:
        config = tiny_run("mlm", model=SHAPE, seq_length=512, **overrides)
        size = config.parallel.tensor_model_parallel_size * config.parallel.pipeline_model_parallel_size
        return max(rank.total for rank in estimate(config, size))

    assert total(tensor_model_parallel_size=2, sequence_parallel=True) < total(tensor_model_parallel_size=2) < total()
    assert total(pipeline_model_parallel_size=2) < total()


def test_early_stages_hold_more_micro_batches_at_once() -> None:
    model = replace(SHAPE, num_layers=9, global_attention_every=1)
    stages = estimate(tiny_run("mlm", model=model, pipeline_model_parallel_size=3, global_batch_size=8), 3)
    one_batch = estimate(tiny_run("mlm", model=model, pipeline_model_parallel_size=3, global_batch_size=1), 3)
    assert stages[0].activations == 3 * one_batch[0].activations
    assert stages[1].activations == 2 * one_batch[1].activations
    assert stages[2].activations == one_batch[2].activations


def test_scored_share_decides_the_head() -> None:
    few = estimate(tiny_run("mlm", model=SHAPE, seq_length=1000, mlm_probability=0.15))[0].activations
    many = estimate(tiny_run("mlm", model=SHAPE, seq_length=1000, mlm_probability=0.3))[0].activations
    per_scored_token = (3 + 1) * 128 * 4 + 512 * 4
    assert many - few == 150 * per_scored_token
