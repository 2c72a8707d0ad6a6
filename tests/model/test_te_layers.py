"""Transformer Engine's layers equal the local layers: names, shapes, masks, windows, RoPE, logits, training.

Transformer Engine itself needs CUDA; these tests use the stand-in of tests/helpers/engine_stand_in.py in separate
processes. Its kernels are tested on a GPU (tests/gpu).
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ettin.config.backend import TRANSFORMER_ENGINE
from megatron_ettin.config.layer_pattern import layer_pattern
from megatron_ettin.config.objectives import mask_kind_of
from tests.checkpoint.training import Case, launch
from tests.helpers.distributed import run_ranks
from tests.model.with_engine import OBJECTIVES, PHASES, RECIPES, SHARED, SIZES, TRAINED, narrow_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

LAYERS = {"17m": 7, "32m": 10, "68m": 19, "150m": 22, "400m": 28, "1b": 28}


def with_engine(task: str, folder: Path, world_size: int, worlds: int = 1) -> dict[str, Any]:
    """Run a task in separate processes and return the result of the last rank."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(worlds)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        ports = [str(probe.getsockname()[1]) for probe in probes]
    launched = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": ports[0]}
    command = [sys.executable, "-W", "ignore", "-m", "tests.model.with_engine", task, str(folder), *ports]
    logs = [folder / f"rank{rank}.log" for rank in range(world_size)]
    launched_ranks: list[subprocess.Popen[bytes]] = []
    for rank, log in enumerate(logs):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        with log.open("w") as file:
            environment = {**os.environ, **launched, **place}
            launched_ranks.append(subprocess.Popen(command, env=environment, stdout=file, stderr=file))
    try:
        codes = [process.wait(300) for process in launched_ranks]
    finally:
        for process in launched_ranks:
            process.kill()
    assert codes == [0] * world_size, "".join(log.read_text() for log in logs)
    result: dict[str, Any] = pickle.loads((folder / "result").read_bytes())
    return result


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Six steps of local layers, without Transformer Engine in the process, and their checkpoint of the third."""
    folder = tmp_path_factory.mktemp("local")
    result: dict[str, Any] = run_ranks(1, launch, Case(6, "clm", save=str(folder), save_at=3))[0]
    return result


@pytest.fixture(scope="module")
def engine(local: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("engine")
    (folder / "local").symlink_to(local["folder"])
    return with_engine("alone", folder, 1)


def engine_names(local_names: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Rename parameters to where Transformer Engine documents them, and add the norms' biases."""
    names = {}
    for name, shape in local_names.items():
        for norm, linear in (("input_layernorm", "self_attention.linear_qkv"), ("pre_mlp_layernorm", "mlp.linear_fc1")):
            if f".{norm}." in name:
                name = name.replace(f"{norm}.weight", f"{linear}.layer_norm_weight")
                names[name.replace("layer_norm_weight", "layer_norm_bias")] = shape
        names[name] = shape
    return names


@pytest.mark.parametrize("preset", SIZES)
def test_parameters_have_the_documented_names_and_the_local_shapes(engine: dict[str, Any], preset: str) -> None:
    local_names = engine["inventory"][preset, "local"]["parameters"]
    assert engine["inventory"][preset, TRANSFORMER_ENGINE]["parameters"] == engine_names(local_names)
    layers = {name.split(".")[2] for name in local_names if ".layers." in name}
    assert len(layers) == LAYERS[preset.removeprefix("ettin-")]


@pytest.mark.parametrize("preset", SIZES)
def test_only_norm_biases_are_frozen_and_zero(engine: dict[str, Any], preset: str) -> None:
    inventory = engine["inventory"][preset, TRANSFORMER_ENGINE]
    layers = LAYERS[preset.removeprefix("ettin-")]
    assert len(inventory["frozen"]) == 2 * layers - 1  # the first layer has no norm before its attention
    assert all(name.endswith("layer_norm_bias") for name in inventory["frozen"])
    assert set(inventory["frozen"].values()) == {0.0}
    assert engine["inventory"][preset, "local"]["frozen"] == {}


@pytest.mark.parametrize("preset", SIZES)
def test_checkpoints_have_the_same_tensors_and_initial_weights(engine: dict[str, Any], preset: str) -> None:
    ours = engine["inventory"][preset, TRANSFORMER_ENGINE]["shards"]
    theirs = engine["inventory"][preset, "local"]["shards"]
    assert ours.keys() == theirs.keys()
    assert not any("bias" in name and name != "output_layer.bias" for name, _ in ours)
    for place, values in theirs.items():
        np.testing.assert_array_equal(ours[place], values, err_msg=str(place))


@pytest.mark.parametrize("flash", [False, True], ids=["without flash-attn", "with flash-attn"])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("preset", SIZES)
def test_every_layer_gets_its_mask_window_and_rope_base(
    engine: dict[str, Any], preset: str, objective: str, flash: bool
) -> None:
    mask = mask_kind_of(objective)
    for phase in PHASES:
        received = engine["received"][preset, phase, objective, flash]
        pattern = layer_pattern(narrow_run(preset, phase, objective).model, mask)
        assert len(received) == len(pattern) == LAYERS[preset.removeprefix("ettin-")]
        for index, (layer, wanted) in enumerate(zip(received, pattern, strict=True)):
            two_sided = wanted.window is not None and mask == "bidirectional"
            if two_sided and not flash:
                expected = ("local", "no_mask", wanted.window)
            else:
                no_limit = (-1, 0) if mask == "causal" else (-1, -1)
                names = {"causal": "padding_causal", "bidirectional": "padding"}
                expected = ("engine", names[mask], wanted.window or no_limit)
            assert (layer["by"], layer["mask"], layer["window"]) == expected, (phase, index)
            assert layer["base"] == pytest.approx(wanted.rope_base, rel=0.01), (phase, index)


def test_the_pattern_is_the_published_one(engine: dict[str, Any]) -> None:
    """ettin-17m in its second phase, by hand."""
    encoder = engine["received"]["ettin-17m", "extend", "mlm", True]
    assert [layer["window"] for layer in encoder] == [(-1, -1), (64, 64), (64, 64)] * 2 + [(-1, -1)]
    assert [round(layer["base"], -3) for layer in encoder] == [160_000, 10_000, 10_000] * 2 + [160_000]
    decoder = engine["received"]["ettin-17m", "decay", "clm", True]
    assert [layer["window"] for layer in decoder] == [(-1, 0), (63, 0), (63, 0)] * 2 + [(-1, 0)]


@pytest.mark.parametrize("flash", [False, True], ids=["without flash-attn", "with flash-attn"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_logits_equal_those_of_local_layers(engine: dict[str, Any], objective: str, flash: bool) -> None:
    wanted = engine["logits"][objective, "local", flash]
    assert np.abs(wanted).max() > 1.0
    np.testing.assert_allclose(engine["logits"][objective, TRANSFORMER_ENGINE, flash], wanted, atol=2e-6)


CLASSES = {
    "delayed": "TEDelayedScaling",
    "tensorwise": "Float8CurrentScaling",
    "blockwise": "Float8BlockScaling",
    "mxfp8": "MXFP8BlockScaling",
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_matrix_product_is_in_fp8(engine: dict[str, Any], recipe: str) -> None:
    products = engine["products"][recipe, False]
    assert len(products) == 5 * 4
    assert set(products.values()) == {CLASSES[recipe]}


@pytest.mark.parametrize("recipe", RECIPES[1:])
def test_first_and_last_layers_stay_in_bf16(engine: dict[str, Any], recipe: str) -> None:
    products = engine["products"][recipe, True]
    per_layer = {index: {used for name, used in products.items() if f".layers.{index}." in name} for index in range(5)}
    assert per_layer == {0: {""}, 1: {""}, 2: {CLASSES[recipe]}, 3: {CLASSES[recipe]}, 4: {""}}


@pytest.mark.parametrize("way", TRAINED)
def test_training_equals_that_of_local_layers(engine: dict[str, Any], local: dict[str, Any], way: str) -> None:
    """With the fp32 residual stream, products are in bf16 and norms are separate modules without a bias."""
    trained, in_bf16 = engine["trained"][way], way == "fp32 residual stream"
    assert trained["losses"] == pytest.approx(local["losses"], rel=1e-3 if in_bf16 else 1e-5)
    assert trained["losses"][-1] < 0.8 * trained["losses"][0]
    biases = [value for name, value in trained["weights"].items() if name.endswith("layer_norm_bias")]
    assert len(biases) == (0 if in_bf16 else 7)
    assert not np.any(biases)


def test_local_checkpoint_resumes_with_transformer_engine(engine: dict[str, Any], local: dict[str, Any]) -> None:
    assert engine["resumed"]["losses"] == pytest.approx(local["losses"][3:], rel=1e-5)


def test_transformer_engine_checkpoint_resumes_with_local_layers(engine: dict[str, Any], local: dict[str, Any]) -> None:
    resumed = run_ranks(1, launch, Case(6, "clm", load=engine["saved"]["folder"]))[0]
    assert resumed["losses"] == pytest.approx(local["losses"][3:], rel=1e-5)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    trained: dict[str, Any] = with_engine("shared", tmp_path_factory.mktemp("shared"), 2, len(SHARED))["trained"]
    return trained


@pytest.mark.parametrize("way", SHARED)
def test_two_ranks_train_as_one(shared: dict[str, Any], local: dict[str, Any], way: str) -> None:
    assert shared[way]["losses"] == pytest.approx(local["losses"], rel=1e-5)
