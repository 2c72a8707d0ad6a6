"""Build, run and train Transformer Engine's layers in processes where megatron-core finds the stand-in.

Run as ``python -m tests.model.with_engine TASK FOLDER PORT...`` under a launcher's environment, as test_te_layers.py
does. The last rank writes ``FOLDER/result``. There is one port for each world that the process joins in turn.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from megatron_ettin.config.backend import TRANSFORMER_ENGINE
from megatron_ettin.config.objectives import OBJECTIVES
from megatron_ettin.config.presets import PRESETS, preset_values
from megatron_ettin.config.run import RunConfig
from tests.helpers import engine_stand_in
from tests.helpers.batches import random_chunks
from tests.helpers.runs import TINY, tiny_run

SIZES = tuple(preset for preset in PRESETS if preset != "nano")
PHASES = ("pretrain", "extend", "decay", "cross")
LENGTHS = (150, 3)
"""The first is longer than both halves of the published window."""
RECIPES = ("delayed", "tensorwise", "blockwise", "mxfp8")

ENGINE = (("transformer_impl", TRANSFORMER_ENGINE),)
TRAINED: Mapping[str, tuple[tuple[str, Any], ...]] = {
    "plain": (),
    "without gradient fusion": (("gradient_accumulation_fusion", False),),
    "distributed optimizer": (("use_distributed_optimizer", True),),
    "MLPs recomputed": (("recompute_granularity", "selective"),),
    "layers recomputed": (("recompute_granularity", "full"),),
    "fp32 residual stream": (("bf16", True), ("fp32_residual_connection", True)),
}
"""Variants of training on one rank."""
SHARED: Mapping[str, tuple[tuple[str, Any], ...]] = {
    "tensor and sequence parallel": (("tensor_model_parallel_size", 2), ("sequence_parallel", True)),
    "pipeline": (("pipeline_model_parallel_size", 2),),
    "data parallel": (("use_distributed_optimizer", True), ("overlap_grad_reduce", True)),
}
"""Variants of training on two ranks."""


def narrow_run(preset: str, phase: str, objective: str, **overrides: Any) -> RunConfig:
    """Return a run of a published recipe with its layers, windows and RoPE bases, and tiny widths."""
    tiny = {"hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 2, "vocab_size": 64}
    values = {**preset_values(preset, objective, phase), **tiny, "attention_output_dropout": 0.0, "device": "cpu"}
    return RunConfig().with_values({**values, "objective": objective, "phase": phase, **overrides})


@contextmanager
def stage(config: RunConfig) -> Iterator[Any]:
    """Build a model; end its process group on exit."""
    from megatron_ettin.runtime.process import end_process
    from tests.helpers.models import build_stage

    try:
        yield build_stage(config)
    finally:
        end_process()


def inventory(config: RunConfig) -> dict[str, Any]:
    """Return a model's parameters by name with their shapes, the frozen ones, and the shards of a checkpoint."""
    from tests.helpers.shards import rank_shards

    with stage(config) as model:
        frozen = {name: value for name, value in model.named_parameters() if not value.requires_grad}
        return {
            "parameters": {name: tuple(value.shape) for name, value in model.named_parameters()},
            "frozen": {name: value.abs().max().item() for name, value in frozen.items()},
            "shards": {(name, offset): values for name, offset, values in rank_shards(model)},
        }


def received(config: RunConfig) -> list[dict[str, Any]]:
    """Run two chunks and return the arguments of each layer's core attention."""
    from tests.helpers.models import packed_logits

    engine_stand_in.ATTENTION_CALLS.clear()
    seen: list[dict[str, Any]] = []
    with stage(config) as model:
        for index, layer in enumerate(model.transformer.layers):
            seen.append({})
            attention = layer.self_attention
            attention.linear_qkv.register_forward_hook(_keep_projection(seen[index]))
            attention.core_attention.register_forward_pre_hook(_keep_rotated(seen[index], attention), with_kwargs=True)
        packed_logits(model, random_chunks(np.random.default_rng(0), LENGTHS, config.model.vocab_size))
    for call in engine_stand_in.ATTENTION_CALLS:
        assert call.lengths == LENGTHS
        seen[call.layer_number - 1] |= {"by": "engine", "mask": call.mask_type, "window": call.window}
    return [_described(layer) for layer in seen]


def _keep_projection(layer: dict[str, Any]) -> Any:
    def keep(module: Any, args: Any, out: Any) -> None:
        layer["projected"] = out[0].detach()

    return keep


def _keep_rotated(layer: dict[str, Any], attention: Any) -> Any:
    def keep(module: Any, args: Any, kwargs: Any) -> None:
        layer.update(rotated=args[0].detach(), by="local", mask=attention.attn_mask_type.name)
        layer["window"] = getattr(module, "window", None)

    return keep


def _described(layer: dict[str, Any]) -> dict[str, Any]:
    """Replace a layer's tensors by the RoPE base that rotated its queries."""
    rotated = layer.pop("rotated").double().numpy()
    tokens, heads, size = rotated.shape
    before = layer.pop("projected").double().numpy().reshape(tokens, heads, 3, size)[:, :, 0]
    half, pair = size // 2, 2
    first, second = (x[1, 0, pair] + 1j * x[1, 0, pair + half] for x in (before, rotated))
    # Pair i of the token at position 1 is rotated by base ** (-2i / size).
    layer["base"] = float(np.angle(second / first)) ** (-size / (2 * pair))
    return layer


def logits(config: RunConfig) -> np.ndarray:
    from tests.helpers.models import packed_logits

    chunks = random_chunks(np.random.default_rng(1), (40, 1, 3, 70), config.model.vocab_size)
    with stage(config) as model:
        return packed_logits(model, chunks)


def products(recipe: str, bf16_ends: bool) -> dict[str, str]:
    """Return the FP8 recipe that each linear module of the layers ran under, by its name."""
    from tests.helpers.models import packed_logits

    config = tiny_run("mlm", model=replace(TINY, num_layers=5), transformer_impl=TRANSFORMER_ENGINE, bf16=True)
    config = config.with_values({"fp8_format": "hybrid", "fp8_recipe": recipe, "first_last_layers_bf16": bf16_ends})
    config = config.with_values({"num_layers_at_start_in_bf16": 2})
    engine_stand_in.PRODUCT_CALLS.clear()
    with stage(config) as model:
        packed_logits(model, random_chunks(np.random.default_rng(0), (32,), config.model.vocab_size))
        names = {module: name for name, module in model.named_modules()}
        return {names[call.module]: call.recipe for call in engine_stand_in.PRODUCT_CALLS}


def trained(variants: Mapping[str, tuple[tuple[str, Any], ...]], **places: Any) -> dict[str, Any]:
    """Train six steps of each variant and return losses and weights."""
    from megatron_ettin.runtime.process import end_process
    from tests.checkpoint.training import Case, launch

    results = {}
    for name, overrides in variants.items():
        result = launch(Case(6, "clm", overrides=(*ENGINE, *overrides), **places))
        end_process()
        results[name] = {key: result[key] for key in ("losses", "weights", "folder")}
    return results


def alone(folder: Path) -> dict[str, Any]:
    """Return the results of one rank; ``folder`` has a checkpoint of local layers."""
    engine = dict(ENGINE)
    results: dict[str, Any] = {"inventory": {}, "received": {}, "logits": {}}
    for preset in SIZES:
        for impl in ("local", TRANSFORMER_ENGINE):
            config = narrow_run(preset, "pretrain", "mlm", transformer_impl=impl)
            results["inventory"][preset, impl] = inventory(config)
    for flash in (False, True):
        if flash:
            engine_stand_in.install_flash_attn()
        for objective in OBJECTIVES:
            for preset in SIZES:
                for phase in PHASES:
                    config = narrow_run(preset, phase, objective, **engine)
                    results["received"][preset, phase, objective, flash] = received(config)
            for impl in ("local", TRANSFORMER_ENGINE):
                results["logits"][objective, impl, flash] = logits(tiny_run(objective, transformer_impl=impl))
    engine_stand_in.remove_flash_attn()
    results["products"] = {(recipe, False): products(recipe, False) for recipe in RECIPES}
    results["products"] |= {(recipe, True): products(recipe, True) for recipe in RECIPES[1:]}
    results["trained"] = trained(TRAINED)
    results["resumed"] = trained({"": ()}, load=str(folder / "local"))[""]
    results["saved"] = trained({"": ()}, save=str(folder / "engine"), save_at=3)[""]
    return results


def shared(folder: Path) -> dict[str, Any]:
    """What two ranks show, each way in a world of its own."""
    results: dict[str, Any] = {}
    for port, (name, overrides) in zip(sys.argv[3:], SHARED.items(), strict=True):
        os.environ["MASTER_PORT"] = port
        results |= trained({name: overrides})
    return {"trained": results}


def main(task: str, folder: Path) -> None:
    engine_stand_in.install_transformer_engine()
    import torch
    from megatron.core.extensions.transformer_engine import HAVE_TE
    from megatron.core.optimizer.distrib_optimizer import USING_TE_OPTIMIZER

    assert HAVE_TE
    assert USING_TE_OPTIMIZER
    torch.set_num_threads(1)
    hook = sys.excepthook
    try:
        results = {"alone": alone, "shared": shared}[task](folder)
    finally:
        sys.excepthook = hook  # torch puts another one around it with every process group
    if int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
        (folder / "result").write_bytes(pickle.dumps(results))


if __name__ == "__main__":  # saving spawns processes, and these import this file
    main(sys.argv[1], Path(sys.argv[2]))
