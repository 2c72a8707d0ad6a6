"""FP8 recipes: which GPUs run them, by the vendor's table, and the padding they need."""

from __future__ import annotations

import pytest

from megatron_ettin.config.backend import FP8_ROW_MULTIPLE, missing_hardware, row_multiple
from tests.helpers.runs import tiny_run


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


def test_rows_are_padded_for_fp8_only() -> None:
    assert row_multiple(tiny_run("mlm").backend) == 1
    assert (
        row_multiple(tiny_run("mlm", fp8_format="hybrid", bf16=True, device="cuda", fp8_recipe="mxfp8").backend) == 32
    )
