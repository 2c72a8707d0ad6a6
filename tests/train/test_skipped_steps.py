"""Non-finite steps are skipped by every optimizer at any layout, and the message names their origin."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.helpers.distributed import run_ranks
from tests.helpers.runs import tiny_run
from tests.helpers.training import MICRO_BATCHES, fixed_plan, global_batch, start_training, train_steps

TP2 = {"tensor_model_parallel_size": 2}
PP2 = {"pipeline_model_parallel_size": 2}
SHARDED = {"use_distributed_optimizer": True}
BF16 = {"bf16": True}
UNCLIPPED_STABLE = {"optimizer": "stable_adamw", "clip_grad": 0.0}
MUON = {"optimizer": "muon"}


def copy_state(training: Any) -> dict[str, Any]:
    """Copy everything that a step may change on this rank: weights, fp32 copies, moments and step counts."""
    inner = training.optimizer.chained_optimizers[0].optimizer
    tensors = {f"weight {name}": value.detach().clone() for name, value in training.model.named_parameters()}
    for index, tensor in enumerate(inner.state):
        tensors[f"stepped {index}"] = tensor.detach().clone()
        for name, value in inner.state[tensor].items():
            tensors[f"{name} {index}"] = value.detach().clone()
    return {**tensors, "steps": [group["step"] for group in inner.param_groups]}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    import torch

    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        for name, value in one.items()
    )


def break_a_gradient(config: Any, broken_rank: int) -> dict[str, Any]:
    """Train a step, one with a non-finite gradient on a single rank, and another one; return what they did."""
    import torch

    training = start_training(config)
    first = train_steps(training, range(1))[0]
    before = copy_state(training)
    hooks = []
    if training.ranks.rank == broken_rank:
        weight = next(p for n, p in training.model.named_parameters() if n.endswith("fc2.weight"))
        hooks.append(weight.register_hook(lambda slope: slope * math.inf))
    skipped = train_steps(training, range(1, 2))[0]
    unchanged = same(copy_state(training), before)
    for hook in hooks:
        hook.remove()
    after = train_steps(training, range(2, 3))[0]
    finite = all(bool(torch.isfinite(p).all()) for p in training.model.parameters())
    return {
        "applied": [first.applied, skipped.applied, after.applied],
        "finite": [first.finite, skipped.finite, after.finite],
        "unchanged": unchanged,
        "changed after": not same(copy_state(training), before),
        "weights finite": finite,
    }


@pytest.mark.parametrize(
    ("world_size", "settings"),
    [
        (1, {}),
        (1, BF16),
        (1, UNCLIPPED_STABLE),
        (1, {**MUON, **BF16}),
        (2, {}),
        (2, TP2),
        (2, PP2),
        (2, SHARDED),
        (2, {**SHARDED, **BF16}),
        (2, {**UNCLIPPED_STABLE, **SHARDED}),
        (2, {**UNCLIPPED_STABLE, **TP2, **BF16}),
        (2, {**MUON, **PP2}),
        (4, {**TP2, **PP2}),
        (4, {**TP2, **SHARDED, **UNCLIPPED_STABLE}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) or "plain" if isinstance(value, dict) else f"{value}ranks",
)
def test_a_non_finite_gradient_on_one_rank_skips_the_step_on_all(world_size: int, settings: dict[str, Any]) -> None:
    config = tiny_run("mlm", **settings)
    for result in run_ranks(world_size, break_a_gradient, config, world_size - 1):
        assert result["applied"] == result["finite"] == [True, False, True]
        assert result["unchanged"]
        assert result["changed after"]
        assert result["weights finite"]


def explain(config: Any, module: str, broken_rank: int, broken_micro_batch: int, step: int) -> tuple[str, bool, bool]:
    """Break a module's output on one rank in one micro-batch; return the message and what stayed the same."""
    import torch

    from megatron_ettin.train.step import train_step
    from megatron_ettin.train.telemetry.non_finite import explain_non_finite

    training = start_training(config)
    ranks = training.ranks
    calls: list[int] = []
    own_micro_batches = MICRO_BATCHES // ranks.dp_size

    def break_output(module: Any, inputs: Any, output: Any) -> Any:
        calls.append(0)
        if (len(calls) - 1) % own_micro_batches != broken_micro_batch:
            return None
        return (output[0] * math.nan, *output[1:]) if isinstance(output, tuple) else output * math.nan

    if ranks.rank == broken_rank:
        training.model.get_submodule(module).register_forward_hook(break_output)
    batches = global_batch(step, "mlm", config.model.vocab_size)[ranks.dp_rank :: ranks.dp_size]
    result = train_step(training, batches, 1e-3)
    assert not result.applied
    before, random_state = copy_state(training), torch.get_rng_state()
    message = explain_non_finite(training, batches, step, fixed_plan(config))
    return message, same(copy_state(training), before), torch.equal(random_state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("world_size", "settings", "broken_rank", "micro_batch", "rows"),
    [
        (1, {}, 0, 2, "rows 22"),
        # Two replicas share four rows: rank 1 has the second and the fourth.
        (2, {}, 1, 1, "rows 23"),
        (2, {"global_batch_size": 8, "micro_batch_size": 2}, 1, 0, "rows 42-43"),
        (2, PP2, 1, 3, "rows 23"),
        (2, TP2, 1, 0, "rows 20"),
    ],
)
def test_message_names_rank_module_and_rows(
    world_size: int, settings: dict[str, Any], broken_rank: int, micro_batch: int, rows: str
) -> None:
    config = tiny_run("mlm", **({"global_batch_size": 4, "attention_output_dropout": 0.1} | settings))
    module = named = "transformer.layers.1.mlp.linear_fc2"
    if settings == PP2:
        named = "transformer.layers.3.mlp.linear_fc2"  # the second stage's second layer
    for message, weights_kept, random_state_kept in run_ranks(
        world_size, explain, config, module, broken_rank, micro_batch, 5
    ):
        assert message == f"rank {broken_rank}: activations are not finite from {named} on, {rows}"
        assert weights_kept
        assert random_state_kept


def explain_gradient(config: Any) -> str:
    from megatron_ettin.train.step import train_step
    from megatron_ettin.train.telemetry.non_finite import explain_non_finite

    training = start_training(config)
    if training.ranks.rank == 1:
        weight = training.model.get_parameter("transformer.layers.1.mlp.linear_fc2.weight")
        weight.register_hook(lambda slope: slope * math.nan)
    batches = global_batch(3, "mlm", config.model.vocab_size)[training.ranks.dp_rank :: training.ranks.dp_size]
    assert not train_step(training, batches, 1e-3).applied
    return explain_non_finite(training, batches, 3, fixed_plan(config))


def test_message_names_the_gradient_where_activations_are_finite() -> None:
    messages = run_ranks(2, explain_gradient, tiny_run("mlm", global_batch_size=4))
    expected = "the gradient of transformer.layers.1.mlp.linear_fc2.weight is not finite, rows 12-15"
    assert messages == [f"activations are finite; rank 0: {expected}"] * 2


def explain_weight(config: Any) -> str:
    import torch

    from megatron_ettin.train.step import train_step
    from megatron_ettin.train.telemetry.non_finite import explain_non_finite

    training = start_training(config)
    with torch.no_grad():
        training.model.get_parameter("transformer.layers.2.mlp.linear_fc1.weight")[3, 4] = math.nan
    batches = global_batch(0, "mlm", config.model.vocab_size)
    assert not train_step(training, batches, 1e-3).applied
    return explain_non_finite(training, batches, 0, fixed_plan(config))


def test_message_names_a_broken_weight() -> None:
    [message] = run_ranks(1, explain_weight, tiny_run("mlm", global_batch_size=4))
    assert "transformer.layers.2.mlp.linear_fc1 on, whose weight is not finite, rows 0" in message
