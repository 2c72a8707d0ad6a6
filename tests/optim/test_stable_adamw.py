"""StableAdamW against a float64 reference, under every layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers.distributed import run_ranks
from tests.helpers.shards import assemble
from tests.optim.synthetic_gradients import (
    BETA1,
    BETA2,
    DECAY,
    EPSILON,
    RATE,
    VOCABULARY,
    Result,
    gradient,
    rate,
    run_steps,
)

STEPS = 20
STABLE = {"optimizer": "stable_adamw"}
TP2 = {"tensor_model_parallel_size": 2}
PP2 = {"pipeline_model_parallel_size": 2}
DISTRIBUTED = {"use_distributed_optimizer": True}
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "one": (1, {}),
    "dp2": (2, {}),
    "dp2-distributed": (2, DISTRIBUTED),
    "tp2": (2, TP2),
    "tp2-dp2-distributed": (4, {**TP2, **DISTRIBUTED}),
    "pp2": (2, PP2),
    "pp2-dp2-distributed": (4, {**PP2, **DISTRIBUTED}),
}


def reference(name: str, weight: np.ndarray, peak: float = RATE) -> np.ndarray:
    """The published recipe's formulas in float64."""
    weight, first, second = weight.astype(np.float64), np.zeros(weight.shape), np.zeros(weight.shape)
    decay = DECAY if weight.ndim >= 2 else 0.0
    for t in range(1, STEPS + 1):
        slope = gradient(name, t - 1, weight.shape).astype(np.float64)
        beta1 = BETA1 * (1 - BETA1 ** (t - 1)) / (1 - BETA1**t)
        beta2 = BETA2 * (1 - BETA2 ** (t - 1)) / (1 - BETA2**t)
        first = beta1 * first + (1 - beta1) * slope
        second = beta2 * second + (1 - beta2) * slope**2
        rms = np.sqrt(np.mean(slope**2 / np.maximum(second, EPSILON**2)))
        effective = rate(t - 1) / max(1.0, rms)
        weight = weight * (1 - effective / peak * decay) - effective * first / (np.sqrt(second) + EPSILON)
    return weight


def largest_errors(results: list[Result], peak: float = RATE) -> dict[str, float]:
    """The largest deviation of each parameter, relative to max(1, |p|)."""
    before, after = assemble([r.before for r in results]), assemble([r.after for r in results])
    errors = {}
    for name, weight in before.items():
        rows = VOCABULARY if name.startswith(("embedding.word", "output_layer")) else None
        expected = reference(name, weight[:rows], peak)
        errors[name] = float((np.abs(after[name][:rows] - expected) / np.maximum(1, np.abs(expected))).max())
    return errors


@pytest.mark.parametrize("layout", LAYOUTS)
def test_twenty_steps_equal_the_formula_under_every_layout(layout: str) -> None:
    world_size, overrides = LAYOUTS[layout]
    results = run_ranks(world_size, run_steps, {**STABLE, **overrides}, STEPS)
    errors = largest_errors(results)
    assert {"embedding.word_embeddings.weight", "output_layer.bias", "transformer.final_layernorm.weight"} <= set(
        errors
    )
    assert max(errors.values()) <= 1e-6, errors


@pytest.mark.parametrize("layout", ["pp2", "pp2-dp2-distributed", "tp2", "dp2"])
def test_replicas_stay_bit_equal(layout: str) -> None:
    """The first and last stage both have the tied matrix, all tensor-parallel ranks the norm weights."""
    world_size, overrides = LAYOUTS[layout]
    first: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}
    copies = 0
    for result in run_ranks(world_size, run_steps, {**STABLE, **overrides}, 5):
        for name, offset, values in result.after:
            copies += (name, offset) in first
            np.testing.assert_array_equal(values, first.setdefault((name, offset), values), err_msg=name)
    assert copies


@pytest.mark.parametrize("layout", ["tp2", "dp2-distributed"])
def test_means_over_parts_of_a_parameter_differ(layout: str) -> None:
    world_size, overrides = LAYOUTS[layout]
    errors = largest_errors(run_ranks(world_size, run_steps, {**STABLE, **overrides}, STEPS, local=True))
    assert max(errors.values()) > 1e-4


def test_decay_is_relative_to_max_lr() -> None:
    results = run_ranks(1, run_steps, {**STABLE, "max_lr": 2 * RATE}, STEPS)
    assert max(largest_errors(results, 2 * RATE).values()) <= 1e-6
    assert max(largest_errors(results, RATE).values()) > 1e-4


def test_vectors_do_not_decay_and_the_tied_matrix_does() -> None:
    decaying, constant = (
        assemble([result.after for result in run_ranks(1, run_steps, {**STABLE, "weight_decay": decay}, 3)])
        for decay in (0.5, 0.0)
    )
    for name, weight in decaying.items():
        assert np.array_equal(weight, constant[name]) == (weight.ndim == 1), name


def resume_alone() -> bool:
    """Step two tensors six times, and again from the state dict of the third step; return whether both ends agree."""
    import copy

    import torch

    from megatron_ettin.optim.stable_adamw import StableAdamW

    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(7, 5, generator=generator), torch.randn(5, generator=generator)]
    gradients = [[torch.randn(weight.shape, generator=generator) for weight in weights] for _ in range(6)]

    def steps(optimizer: StableAdamW, tensors: list[torch.nn.Parameter], which: slice) -> None:
        for given in gradients[which]:
            for tensor, value in zip(tensors, given, strict=True):
                tensor.grad = value
            optimizer.step()

    through = [torch.nn.Parameter(weight.clone()) for weight in weights]
    one = StableAdamW(through, lr=RATE, weight_decay=DECAY)
    steps(one, through, slice(0, 3))
    halfway, state = (
        [torch.nn.Parameter(tensor.detach().clone()) for tensor in through],
        copy.deepcopy(one.state_dict()),
    )
    steps(one, through, slice(3, 6))
    other = StableAdamW(halfway, lr=RATE, weight_decay=DECAY)
    other.load_state_dict(state)
    assert all(set(state) == {"exp_avg", "exp_avg_sq"} for state in other.state.values())
    steps(other, halfway, slice(3, 6))
    return all(map(torch.equal, through, halfway))


def test_resume_from_the_state_dict_without_megatron_core_is_bit_equal() -> None:
    assert run_ranks(1, resume_alone) == [True]


def ratio_sums() -> tuple[float, float]:
    """The sum over a tensor of several chunks and a remainder, and the same sum in float64."""
    import torch

    from megatron_ettin.optim import stable_adamw

    generator = torch.Generator().manual_seed(0)
    slope, moment = torch.randn(2, 3 * stable_adamw._CORE_CHUNK_ELEMENTS + 17, generator=generator)
    moment.square_()
    ratios = slope.double() ** 2 / (0.9 * moment.double() + 0.1 * slope.double() ** 2).clamp(min=0.01)
    total = stable_adamw.ratio_sum(slope, moment, 0.9, 0.01, stable_adamw.new_scratch([slope]))
    return float(total), float(ratios.sum())


def test_chunks_of_the_rms_pass_cover_all_values() -> None:
    [(total, expected)] = run_ranks(1, ratio_sums)
    assert total == pytest.approx(expected, rel=1e-6)


@pytest.mark.gpu
def test_steps_on_cuda_equal_those_on_cpu() -> None:
    import torch

    from megatron_ettin.optim.stable_adamw import StableAdamW

    start = torch.randn(300, 70)
    on_cpu, on_cuda = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.cuda())
    optimizers = [StableAdamW([tensor], lr=RATE, weight_decay=DECAY) for tensor in (on_cpu, on_cuda)]
    for step in range(STEPS):
        slope = torch.from_numpy(gradient("x", step, (300, 70)))
        on_cpu.grad, on_cuda.grad = slope, slope.cuda()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(on_cuda.cpu(), on_cpu, rtol=1e-6, atol=1e-6)
