"""A run taken up again goes on as if it had never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.checkpoint.training import Case, launch
from tests.helpers.distributed import run_ranks

STOP, END = 3, 9
"""Six steps follow the resume: wrong optimizer state shows only after the first."""

TP2 = (("tensor_model_parallel_size", 2),)
PP2 = (("pipeline_model_parallel_size", 2),)
DISTRIBUTED = (("use_distributed_optimizer", True),)
BF16 = (("bf16", True),)
SEQUENCE = (*TP2, ("sequence_parallel", True))


def stop_and_go_on(save: Path, world_size: int, *, then: tuple[Any, ...] | None = None, **case: Any) -> list[Any]:
    """Train to STOP, save, and go on to END from the checkpoint, at the layout ``then`` if one is given."""
    first = run_ranks(world_size, launch, Case(STOP, save=str(save), **case))
    if then is not None:
        world_size, case["overrides"] = then
    return run_ranks(world_size, launch, Case(END, load=first[0]["folder"], **case))


@pytest.mark.parametrize(
    ("objective", "world_size", "overrides"),
    [
        ("mlm", 1, ()),
        ("clm", 1, ()),
        ("mlm", 2, TP2),
        ("clm", 2, PP2),
        ("mlm", 2, ()),
        ("clm", 2, DISTRIBUTED),
        ("mlm", 2, SEQUENCE),
        ("mlm", 1, BF16),
        ("clm", 2, (*DISTRIBUTED, *BF16)),
    ],
    ids=lambda value: "-".join(name for name, _ in value) if isinstance(value, tuple) else str(value),
)
def test_same_layout_with_dropout_is_equal_to_the_bit(
    tmp_path: Path, objective: str, world_size: int, overrides: tuple[Any, ...]
) -> None:
    case: dict[str, Any] = {"objective": objective, "dropout": 0.1, "overrides": overrides}
    whole = run_ranks(world_size, launch, Case(END, **case))
    resumed = stop_and_go_on(tmp_path, world_size, **case)
    for expected, found in zip(whole, resumed, strict=True):
        assert found["losses"] == expected["losses"][STOP:]
        assert found["weights"].keys() == expected["weights"].keys()
        for name, value in found["weights"].items():
            np.testing.assert_array_equal(value, expected["weights"][name], err_msg=name)
        assert found["state"] == expected["state"]
        assert found["notes"] == ()


LAYOUTS = {
    "one": (1, ()),
    "tp2": (2, TP2),
    "pp2": (2, PP2),
    "dp2": (2, ()),
    "dp2-distributed-optimizer": (2, DISTRIBUTED),
    "tp2-pp2": (4, (*TP2, *PP2)),
}
CHANGES = [
    ("tp2", "pp2", "mlm"),
    ("tp2", "dp2", "clm"),
    ("tp2", "dp2-distributed-optimizer", "mlm"),
    ("dp2-distributed-optimizer", "pp2", "clm"),
    ("pp2", "one", "mlm"),
    ("one", "dp2-distributed-optimizer", "clm"),
    ("dp2-distributed-optimizer", "tp2-pp2", "mlm"),
    ("tp2-pp2", "one", "clm"),
]


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, Any]:
    return {objective: run_ranks(1, launch, Case(END, objective))[0] for objective in ("mlm", "clm")}


@pytest.mark.parametrize(("before", "after", "objective"), CHANGES)
def test_other_layout_gives_the_same_losses(
    tmp_path: Path, before: str, after: str, objective: str, uninterrupted: dict[str, Any]
) -> None:
    world_size, overrides = LAYOUTS[before]
    case = {"objective": objective, "overrides": overrides}
    results = stop_and_go_on(tmp_path, world_size, then=LAYOUTS[after], **case)
    for result in results:
        np.testing.assert_allclose(result["losses"], uninterrupted[objective]["losses"][STOP:], rtol=1e-5)
        assert "another layout" in result["notes"][0]


def test_optimizer_state_matters_to_that_test(tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    """Without the moments the same weights take another way, by far more than the tolerance."""
    first = run_ranks(1, launch, Case(STOP, save=str(tmp_path)))[0]
    losses = run_ranks(1, launch_without_optimizer, Case(END, load=first["folder"]))[0]
    expected = uninterrupted["mlm"]["losses"][STOP:]
    assert losses[0] == pytest.approx(expected[0], rel=1e-6)
    assert max(abs(np.array(losses) / np.array(expected) - 1)) > 1e-3


def launch_without_optimizer(case: Case) -> list[float]:
    """Go on from the weights alone."""
    from unittest.mock import patch

    from megatron_ettin.checkpoint import load

    steps = STOP
    with patch.object(load, "_optimizer_steps", lambda folder: None):
        found = load.TrainingState.start(case.objective)
        found.step = steps
        with patch.object(load.TrainingState, "start", lambda *args, **kwargs: found):
            return launch(case)["losses"]


def test_vocabulary_padding_may_differ(tmp_path: Path) -> None:
    """131 tokens are 136 rows at one rank and 144 at two; the extra rows never matter."""
    expected = run_ranks(1, launch, Case(END, "clm", vocab_size=131))[0]
    for before, after in (("one", "tp2"), ("tp2", "one")):
        world_size, overrides = LAYOUTS[before]
        case = {"objective": "clm", "overrides": overrides, "vocab_size": 131}
        result = stop_and_go_on(tmp_path / before, world_size, then=LAYOUTS[after], **case)[0]
        np.testing.assert_allclose(result["losses"], expected["losses"][STOP:], rtol=1e-5)
