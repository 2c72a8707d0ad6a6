"""MuonAdamW against torch's Muon and AdamW, and the property that Muon is used for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers.distributed import run_ranks
from tests.helpers.shards import assemble
from tests.optim.synthetic_gradients import BETA1, BETA2, DECAY, EPSILON, RATE, gradient, rate, run_steps

STEPS = 4
MUON = {"optimizer": "muon"}


def is_hidden(name: str, weight: np.ndarray) -> bool:
    return weight.ndim == 2 and not name.startswith(("embedding", "output_layer"))


def torch_steps(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights after steps of torch's Muon and torch's AdamW."""
    import torch

    values = {name: torch.nn.Parameter(torch.from_numpy(weight.copy())) for name, weight in weights.items()}
    hidden = [values[name] for name, weight in weights.items() if is_hidden(name, weight)]
    rest = [(values[name], weight.ndim) for name, weight in weights.items() if not is_hidden(name, weight)]
    assert len(hidden) == 17
    groups = [
        {"params": [v for v, n in rest if n == dim], "weight_decay": decay} for dim, decay in ((1, 0), (2, DECAY))
    ]
    optimizers = [
        torch.optim.Muon(hidden, lr=RATE, weight_decay=DECAY, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=RATE, betas=(BETA1, BETA2), eps=EPSILON, foreach=False),
    ]
    for step in range(STEPS):
        for name, value in values.items():
            value.grad = torch.from_numpy(gradient(name, step, tuple(value.shape)))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
            optimizer.step()
    return {name: value.detach().numpy() for name, value in values.items()}


@pytest.mark.parametrize("overrides", [{}, {"pipeline_model_parallel_size": 2}], ids=["dp2", "pp2"])
def test_steps_equal_torch(overrides: dict[str, Any]) -> None:
    results = run_ranks(2, run_steps, {**MUON, **overrides}, STEPS)
    before, after = assemble([r.before for r in results]), assemble([r.after for r in results])
    for name, expected in run_ranks(1, torch_steps, before)[0].items():
        np.testing.assert_allclose(after[name], expected, rtol=1e-6, atol=1e-6, err_msg=name)


def test_muon_step_has_nearly_equal_singular_values() -> None:
    """They are near 0.2 sqrt(max(rows, columns)) times the rate, while those of the gradient vary."""
    [result] = run_ranks(1, run_steps, {**MUON, "weight_decay": 0.0}, 1)
    before, after = assemble([result.before]), assemble([result.after])
    name = "head.dense.weight"
    sizes = np.linalg.svd((after[name] - before[name]) / (rate(0) * 0.2 * np.sqrt(64)), compute_uv=False)
    slopes = np.linalg.svd(gradient(name, 0, (64, 64)), compute_uv=False)
    assert slopes.max() / np.median(slopes) > 2
    assert sizes.max() < 1.3
    assert np.median(sizes) > 0.5
