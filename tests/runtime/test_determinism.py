"""The --deterministic mode: torch refuses kernels that are not deterministic, and runs still pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.distributed import run_ranks
from tests.helpers.launches import Material, assert_same_weights, launch, metrics, settings, write_material


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return write_material(tmp_path_factory.mktemp("material"))


def launch_strictly(run: object) -> tuple[bool, bool]:
    """Launch in this mode; return whether torch was strict in every step, and whether it was before."""
    from unittest.mock import patch

    import torch

    from megatron_ettin.train import loop

    strict: list[bool] = []
    real = loop.train_step

    def step(*arguments: object) -> object:
        strict.append(torch.are_deterministic_algorithms_enabled())
        return real(*arguments)  # type: ignore[arg-type]

    before = torch.are_deterministic_algorithms_enabled()
    try:
        with patch.object(loop, "train_step", step):
            launch(run)  # type: ignore[arg-type]
    finally:
        torch.use_deterministic_algorithms(False)
    return all(strict) and bool(strict), before


def test_deterministic_run_is_strict_and_bit_equal(tmp_path: Path, material: Material) -> None:
    plain, strict = tmp_path / "plain", tmp_path / "strict"
    run_ranks(1, launch, settings(material, save=str(plain), train_iters=4))
    chosen = settings(material, save=str(strict), train_iters=4, deterministic=True)
    assert run_ranks(1, launch_strictly, chosen) == [(True, False)]
    assert metrics(plain) == metrics(strict)
    assert_same_weights(plain, strict)
