"""The fp32 residual stream of bf16 runs: as accurate as autocast, and the same over all layouts."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.helpers.batches import packed_batch
from tests.helpers.distributed import run_ranks
from tests.helpers.runs import TINY, tiny_run
from tests.helpers.shards import assemble
from tests.parity.test_transformers import their_model

DEEP = replace(TINY, num_layers=28, num_attention_heads=1, vocab_size=512, sliding_window=128, init_std=0.02)
RESIDUAL: dict[str, Any] = {
    "bf16": True,
    "fp32_residual_connection": True,
    "optimizer": "stable_adamw",
    "clip_grad": 0.0,
}
Gradients = dict[str, np.ndarray]


def one_batch(objective: str) -> Any:
    rng = np.random.default_rng(3)
    chunks = [rng.integers(5, DEEP.vocab_size, length) for length in (150, 90, 16)]
    return packed_batch(chunks, causal=objective == "clm", seed=5)


def our_gradients(objective: str, overrides: dict[str, Any]) -> tuple[Gradients, Any]:
    """Return the gradients of the summed loss over one batch by parameter, and the initial weights."""
    from megatron_ettin.train.step import run_schedule
    from tests.helpers.shards import rank_shards
    from tests.helpers.training import start_training

    training = start_training(tiny_run(objective, model=DEEP, **overrides))
    training.wrapped.zero_grad_buffer()
    run_schedule(training, [one_batch(objective)], forward_only=False)
    gradients = {name: value.main_grad.float().numpy().copy() for name, value in training.model.named_parameters()}
    return gradients, rank_shards(training.model)


def their_gradients(objective: str, weights: Gradients) -> tuple[Gradients, Gradients]:
    """Return the gradients of transformers' class in fp32 and under bf16 autocast."""
    import torch
    from torch.nn import functional as F

    model = their_model(objective, tiny_run(objective, model=DEEP), weights, "sdpa").train()
    batch = one_batch(objective)
    results = []
    for enabled in (False, True):
        model.zero_grad()
        for start, end in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
            inside = (batch.scored_K >= start) & (batch.scored_K < end)
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                logits = model(torch.from_numpy(batch.tokens_T[start:end])[None]).logits[0].float()
                scored = logits[torch.from_numpy(batch.scored_K[inside] - start)]
                loss = F.cross_entropy(scored, torch.from_numpy(batch.labels_K[inside]), reduction="sum")
            loss.backward()
        results.append({n: p.grad.float().numpy().copy() for n, p in model.named_parameters() if p.grad is not None})
    return results[0], results[1]


def layer_errors(gradients: Gradients, exact: Gradients) -> np.ndarray:
    """Return the relative error of each layer's gradient, all its parameters as one vector."""
    wrong, right = np.zeros(DEEP.num_layers), np.zeros(DEEP.num_layers)
    for name, expected in exact.items():
        if match := re.search(r"layers\.(\d+)\.", name):
            wrong[int(match[1])] += np.square(gradients[name] - expected).sum(dtype=np.float64)
            right[int(match[1])] += np.square(expected).sum(dtype=np.float64)
    return np.sqrt(wrong / right)


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_gradients_of_every_layer_are_as_accurate_as_under_autocast(objective: str) -> None:
    ((exact, shards),) = run_ranks(1, our_gradients, objective, {})
    ((narrow, _),) = run_ranks(1, our_gradients, objective, {"bf16": True})
    ((wide, _),) = run_ranks(1, our_gradients, objective, RESIDUAL)
    ((their_exact, autocast),) = run_ranks(1, their_gradients, objective, assemble([shards]))
    assert (layer_errors(wide, exact) <= 1.5 * layer_errors(autocast, their_exact)).all()
    assert layer_errors(narrow, exact).mean() > 1.25 * layer_errors(wide, exact).mean(), "the flag does not matter here"


def losses(overrides: dict[str, Any]) -> tuple[list[float], set[str]]:
    """Return five losses, and the types of the norms' weights."""
    from tests.helpers.training import start_training, train_steps

    training = start_training(tiny_run("mlm", **overrides))
    steps = [result.sums.loss for result in train_steps(training, range(5))]
    return steps, {str(value.dtype) for name, value in training.model.named_parameters() if "norm" in name}


EXACT: dict[str, tuple[int, dict[str, Any]]] = {
    "distributed optimizer": (2, {"use_distributed_optimizer": True}),
    "layers recomputed": (1, {"recompute_granularity": "full"}),
    "MLPs recomputed": (1, {"recompute_granularity": "selective"}),
}
ROUNDED: dict[str, tuple[int, dict[str, Any]]] = {
    "tensor parallel": (2, {"tensor_model_parallel_size": 2}),
    "sequence parallel": (2, {"tensor_model_parallel_size": 2, "sequence_parallel": True}),
    "pipeline": (2, {"pipeline_model_parallel_size": 2}),
}


@pytest.fixture(scope="module")
def on_one_rank() -> list[float]:
    ((steps, types),) = run_ranks(1, losses, RESIDUAL)
    assert types == {"torch.float32"}
    return steps


@pytest.mark.parametrize("way", [*EXACT, *ROUNDED])
def test_layouts_agree(on_one_rank: list[float], way: str) -> None:
    world_size, overrides = (EXACT | ROUNDED)[way]
    for steps, types in run_ranks(world_size, losses, {**RESIDUAL, **overrides}):
        assert types == {"torch.float32"}
        # bf16 products are rounded where tensor parallelism splits them, and tied gradients where stages exchange them.
        np.testing.assert_allclose(steps, on_one_rank, rtol=1e-9 if way in EXACT else 3e-4)


def test_without_bf16_the_flag_changes_nothing() -> None:
    plain, flagged = (run_ranks(1, losses, {"fp32_residual_connection": value})[0] for value in (False, True))
    assert plain == flagged
