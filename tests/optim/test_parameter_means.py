"""The norm of all weights does not depend on the layout, and on one rank equals a norm in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers.distributed import run_ranks
from tests.helpers.models import build_stage
from tests.helpers.runs import tiny_run


def norms(overrides: dict[str, Any]) -> tuple[float, float]:
    """Return the norm, and that of this rank's own parameters in float64."""
    from megatron_ettin.optim.parameter_means import parameter_norm

    model = build_stage(tiny_run("mlm", **overrides))
    own = [parameter.detach().double().numpy() for parameter in model.parameters()]
    return parameter_norm(model), float(np.sqrt(sum((values**2).sum() for values in own)))


@pytest.mark.parametrize(
    "layout",
    [
        {"tensor_model_parallel_size": 2},
        {"tensor_model_parallel_size": 2, "sequence_parallel": True},
        {"pipeline_model_parallel_size": 2},
        {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2},
        {"tensor_model_parallel_size": 1},
    ],
)
def test_every_weight_counts_once(layout: dict[str, Any]) -> None:
    (expected, in_float64), *_ = run_ranks(1, norms, {})
    np.testing.assert_allclose(expected, in_float64, rtol=1e-6)
    ranks = layout.get("tensor_model_parallel_size", 1) * layout.get("pipeline_model_parallel_size", 1)
    for norm, _ in run_ranks(ranks, norms, layout):
        np.testing.assert_allclose(norm, expected, rtol=1e-6)
