"""Kernels that do not fit are refused by name; what GPU has which FP8 recipe is as the vendor's table says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from megatron_ettin.config.backend import FP8_ROW_MULTIPLE, missing_hardware, row_multiple
from megatron_ettin.config.checks import check_backend
from megatron_ettin.errors import ConfigError
from tests.helpers.runs import TINY, tiny_run, with_overrides

FP8: dict[str, Any] = {"fp8_format": "hybrid", "bf16": True, "device": "cuda"}
WIDE = replace(TINY, hidden_size=128, ffn_hidden_size=192)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"transformer_impl": "transformer_engine"},
            "--transformer-impl transformer_engine: runs on CUDA devices only",
        ),
        ({**FP8, "transformer_impl": "local"}, "--fp8-format hybrid: needs Transformer Engine's layers"),
        ({**FP8, "bf16": False}, "--fp8-format hybrid: needs --bf16"),
        ({**FP8, "fp8_recipe": "delayed", "first_last_layers_bf16": True}, "--first-last-layers-bf16: needs another"),
        ({**FP8, "fp8_param_gather": True}, "--fp8-param-gather: needs --use-distributed-optimizer"),
        ({"first_last_layers_bf16": True}, "--first-last-layers-bf16: belongs to --fp8-format"),
        ({"fp8_param_gather": True}, "--fp8-param-gather: belongs to --fp8-format"),
        (
            {**FP8, "tensor_model_parallel_size": 16},
            "--hidden-size 128: with --fp8-format hybrid must leave a multiple",
        ),
        ({"overlap_param_gather": True}, "--overlap-param-gather: needs --use-distributed-optimizer and"),
        ({"recompute_num_layers": 2}, "--recompute-num-layers 2: belongs to --recompute-granularity full"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="^" + message):
        check_backend(tiny_run("mlm", model=WIDE, **overrides))


def test_fp8_in_a_fitting_run_passes() -> None:
    check_backend(tiny_run("mlm", model=WIDE, **FP8, fp8_param_gather=True, use_distributed_optimizer=True))
    check_backend(tiny_run("mlm", model=WIDE, **FP8, first_last_layers_bf16=True))


@pytest.mark.parametrize(
    ("capability", "recipes"),
    [
        ((8, 0), []),  # A100
        ((8, 9), ["delayed", "tensorwise"]),  # L40S
        ((9, 0), ["delayed", "tensorwise", "blockwise"]),  # H100, H200
        ((10, 0), ["delayed", "tensorwise", "mxfp8"]),  # B200
    ],
)
def test_recipes_of_a_gpu(capability: tuple[int, int], recipes: list[str]) -> None:
    assert [recipe for recipe in FP8_ROW_MULTIPLE if not missing_hardware(recipe, capability)] == recipes


def test_rows_are_filled_up_for_fp8_alone() -> None:
    assert row_multiple(tiny_run("mlm").backend) == 1
    assert row_multiple(with_overrides(tiny_run("mlm", **FP8), fp8_recipe="mxfp8").backend) == 32
