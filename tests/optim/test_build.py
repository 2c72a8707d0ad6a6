"""The built optimizer against an AdamW in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers.distributed import run_ranks
from tests.helpers.runs import tiny_run

RATE, DECAY, BETA1, BETA2, EPSILON = 3e-3, 0.1, 0.9, 0.98, 1e-6
STEPS = 3
SETTINGS: dict[str, Any] = {
    "weight_decay": DECAY,
    "adam_beta1": BETA1,
    "adam_beta2": BETA2,
    "adam_eps": EPSILON,
    "clip_grad": 0.0,
}


def gradient(name: str, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """A gradient that is the same for every rank and the reference."""
    return np.random.default_rng([step, *name.encode()]).normal(size=shape)


def run_steps(overrides: dict[str, Any]) -> dict[str, Any]:
    """Apply STEPS synthetic gradients; return the weights before and after."""
    import torch

    from tests.helpers.training import start_training

    training = start_training(tiny_run("mlm", **SETTINGS, **overrides))
    named = dict(training.model.named_parameters())
    before = {name: value.detach().numpy().copy() for name, value in named.items()}
    for step in range(STEPS):
        training.wrapped.zero_grad_buffer()
        for name, parameter in named.items():
            parameter.main_grad.copy_(torch.from_numpy(gradient(name, step, tuple(parameter.shape))))
        for group in training.optimizer.param_groups:
            group["lr"] = RATE
        training.optimizer.step()
    after = {name: value.detach().numpy().copy() for name, value in named.items()}
    return {"before": before, "after": after}


def reference(name: str, weight: np.ndarray) -> np.ndarray:
    """Loshchilov and Hutter 2019, algorithm 2, in float64."""
    weight, first, second = weight.astype(np.float64), np.zeros(weight.shape), np.zeros(weight.shape)
    decay = DECAY if weight.ndim >= 2 else 0.0
    for step in range(STEPS):
        slope = gradient(name, step, weight.shape)
        first = BETA1 * first + (1 - BETA1) * slope
        second = BETA2 * second + (1 - BETA2) * slope**2
        unbiased = first / (1 - BETA1 ** (step + 1)), second / (1 - BETA2 ** (step + 1))
        weight = weight - RATE * (unbiased[0] / (np.sqrt(unbiased[1]) + EPSILON) + decay * weight)
    return weight


@pytest.mark.parametrize("overrides", [{}, {"use_distributed_optimizer": True}], ids=["replicated", "distributed"])
def test_steps_equal_the_formula_and_only_matrices_decay(overrides: dict[str, Any]) -> None:
    for result in run_ranks(2, run_steps, overrides):
        names = set(result["after"])
        assert {"embedding.word_embeddings.weight", "output_layer.bias", "transformer.final_layernorm.weight"} <= names
        for name, weight in result["before"].items():
            expected = reference(name, weight)
            np.testing.assert_allclose(result["after"][name], expected, rtol=1e-6, atol=1e-6, err_msg=name)


def test_decay_exceeds_the_tolerance() -> None:
    weight = np.ones((2, 2))
    moved = reference("x", weight) - reference("x", np.ones(4)).reshape(2, 2)
    assert np.abs(moved).max() > 1e-4
