"""Where modules run: the head on scored positions, embedding and head on their stages, dropout after attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.helpers.distributed import run_ranks
from tests.helpers.models import build_stage
from tests.helpers.runs import TINY, tiny_run


def run_with_hooks(objective: str, scored: list[int], training: bool) -> dict[str, Any]:
    """Run one chunk of 40 tokens; report the shapes that reach the head and which modules changed between two runs."""
    import torch

    from megatron_ettin.model.packed_layout import PackedLayout

    model = build_stage(tiny_run(objective, model=replace(TINY, attention_output_dropout=0.5))).train(training)
    seen: dict[str, list[torch.Tensor]] = {}

    def watch(name: str) -> Any:
        def keep(module: torch.nn.Module, args: Any, out: Any) -> None:
            tensor = out[0] if isinstance(out, tuple) else out
            if isinstance(tensor, torch.Tensor):
                seen.setdefault(name, []).append(tensor.detach().clone())

        return keep

    for name, module in model.named_modules():
        module.register_forward_hook(watch(name))
    layout = PackedLayout.build(torch.tensor([0, 40], dtype=torch.int32), torch.arange(40), (40,))
    for _ in range(2):
        logits = model(torch.arange(5, 45), layout, torch.tensor(scored))
    return {
        "logits": tuple(logits.shape),
        "head": tuple(seen["head.dense"][0].shape),
        "same": {name: bool((first == second).all()) for name, (first, second) in seen.items()},
    }


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_head_sees_scored_positions_only(objective: str) -> None:
    found = run_ranks(1, run_with_hooks, objective, [3, 8, 39], False)[0]
    assert found["logits"] == (3, TINY.vocab_size)
    assert found["head"] == (3, TINY.hidden_size)
    assert all(found["same"].values()), "evaluation draws nothing"


def test_dropout_is_after_the_attention_output_only() -> None:
    same = run_ranks(1, run_with_hooks, "mlm", [0], True)[0]["same"]
    layer = "transformer.layers.0"
    # Outputs up to the first layer's output projection are unchanged, those after the residual sum are not.
    for name in ("embedding.norm", f"{layer}.self_attention.linear_qkv", f"{layer}.self_attention.linear_proj"):
        assert same[name], name
    for name in (f"{layer}.pre_mlp_layernorm", f"{layer}.mlp", layer):
        assert not same[name], name


def mlp_residual(probability: float) -> tuple[np.ndarray, np.ndarray]:
    """Return what the first layer's MLP adds to the residual stream in training mode, and its own output."""
    import torch

    from megatron_ettin.model.packed_layout import PackedLayout

    model = build_stage(tiny_run("mlm", model=replace(TINY, attention_output_dropout=probability))).train()
    kept: dict[str, torch.Tensor] = {}
    layer = model.transformer.layers[0]
    layer.pre_mlp_layernorm.register_forward_hook(lambda m, args, out: kept.update(before=args[0]))
    layer.mlp.register_forward_hook(lambda m, args, out: kept.update(mlp=out[0]))
    layer.register_forward_hook(lambda m, args, out: kept.update(after=out[0]))
    layout = PackedLayout.build(torch.tensor([0, 40], dtype=torch.int32), torch.arange(40), (40,))
    model(torch.arange(5, 45), layout, torch.tensor([0]))
    return (kept["after"] - kept["before"]).detach().numpy(), kept["mlp"].detach().numpy()


def test_no_dropout_after_the_mlp() -> None:
    added, output = run_ranks(1, mlp_residual, 0.5)[0]
    np.testing.assert_allclose(added, output, atol=1e-6)


def stage_contents(pp: int, num_layers: int) -> tuple[list[str], int]:
    """Return the parts of this stage and its number of layers."""
    model = build_stage(tiny_run("mlm", model=replace(TINY, num_layers=num_layers), pipeline_model_parallel_size=pp))
    return sorted(name for name, _ in model.named_children()), len(model.transformer.layers)


def test_stages_have_their_parts() -> None:
    first, last = run_ranks(2, stage_contents, 2, 7)
    assert first == (["embedding", "transformer"], 4)
    assert last == (["head", "output_layer", "transformer"], 3)
    assert run_ranks(1, stage_contents, 1, 7)[0] == (["embedding", "head", "output_layer", "transformer"], 7)
