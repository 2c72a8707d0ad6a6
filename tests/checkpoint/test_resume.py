"""A run taken up again goes on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
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
STABLE = (("optimizer", "stable_adamw"),)
MUON = (("optimizer", "muon"),)
SEQUENCE = (*TP2, ("sequence_parallel", True))


def told(value: Any) -> str:
    """Name a parameter in a test's id."""
    return "-".join(str(part) for pair in value for part in pair) if isinstance(value, tuple) else str(value)


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
        ("mlm", 2, STABLE),
        ("clm", 2, (*STABLE, *TP2)),
        ("mlm", 2, (*STABLE, *PP2)),
        ("mlm", 2, (*STABLE, *DISTRIBUTED)),
        ("clm", 1, (*STABLE, *BF16)),
        ("mlm", 2, (*STABLE, *DISTRIBUTED, *BF16)),
        ("mlm", 2, MUON),
        ("clm", 2, (*MUON, *PP2)),
        ("clm", 1, (*MUON, *BF16)),
    ],
    ids=told,
)
def test_same_layout_with_dropout_is_equal_to_the_bit(
    tmp_path: Path, objective: str, world_size: int, overrides: tuple[Any, ...]
) -> None:
    case = Case(END, objective, dropout=0.1, overrides=overrides)
    whole = run_ranks(world_size, launch, replace(case, save=str(tmp_path), save_at=STOP))
    resumed = run_ranks(world_size, launch, replace(case, load=whole[0]["folder"]))
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
    "tp2-pp2-distributed-optimizer": (4, (*TP2, *PP2, *DISTRIBUTED)),
    "tp2-dp2-distributed-optimizer": (4, (*TP2, *DISTRIBUTED)),
}
CHANGES = [
    ("mlm", "tp2", "pp2", ()),
    ("mlm", "tp2", "dp2", ()),
    ("mlm", "tp2", "dp2-distributed-optimizer", ()),
    ("mlm", "pp2", "one", ()),
    ("clm", "one", "dp2-distributed-optimizer", ()),
    ("clm", "dp2-distributed-optimizer", "pp2", ()),
    ("clm", "dp2-distributed-optimizer", "tp2-pp2", ()),
    ("clm", "tp2-pp2", "one", ()),
    ("mlm", "one", "tp2", STABLE),
    ("clm", "tp2", "dp2-distributed-optimizer", STABLE),
    ("mlm", "dp2-distributed-optimizer", "pp2", STABLE),
    ("clm", "pp2", "tp2-dp2-distributed-optimizer", STABLE),
    ("mlm", "tp2-dp2-distributed-optimizer", "one", STABLE),
    ("clm", "tp2-pp2-distributed-optimizer", "one", STABLE),  # its buckets are padded
    ("clm", "dp2", "pp2", MUON),
]


Uninterrupted = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """Give the run of an objective at a layout that went through, saved at STOP on its way; made once each."""

    @cache
    def run(objective: str, layout: str, optimizer: tuple[Any, ...] = ()) -> dict[str, Any]:
        world_size, overrides = LAYOUTS[layout]
        save = tmp_path_factory.mktemp(f"{objective}-{layout}")
        case = Case(END, objective, save=str(save), save_at=STOP, overrides=(*overrides, *optimizer))
        result = run_ranks(world_size, launch, case)[0]
        assert isinstance(result, dict)
        return result

    return run


@pytest.mark.parametrize(("objective", "before", "after", "optimizer"), CHANGES, ids=told)
def test_other_layout_gives_the_same_losses(
    objective: str, before: str, after: str, optimizer: tuple[Any, ...], uninterrupted: Uninterrupted
) -> None:
    former = uninterrupted(objective, before, optimizer)
    world_size, overrides = LAYOUTS[after]
    case = Case(END, objective, load=former["folder"], overrides=(*overrides, *optimizer))
    for result in run_ranks(world_size, launch, case):
        np.testing.assert_allclose(result["losses"], former["losses"][STOP:], rtol=1e-5)
        assert "another layout" in result["notes"][0]


def test_optimizer_state_matters_to_that_test(uninterrupted: Uninterrupted) -> None:
    """Without the moments the same weights take another way, by far more than the tolerance."""
    former = uninterrupted("clm", "one")
    losses = run_ranks(1, launch_without_optimizer, Case(END, "clm", load=former["folder"]))[0]
    expected = former["losses"][STOP:]
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


@pytest.mark.parametrize(("before", "after"), [("one", "tp2"), ("tp2", "one")])
def test_vocabulary_padding_may_differ(tmp_path: Path, before: str, after: str) -> None:
    """131 tokens are 136 rows at one rank and 144 at two; the extra rows never matter."""
    (world_size, overrides), (world_size_after, overrides_after) = LAYOUTS[before], LAYOUTS[after]
    case = Case(END, "clm", save=str(tmp_path), save_at=STOP, overrides=overrides, vocab_size=131)
    former = run_ranks(world_size, launch, case)[0]
    case = Case(END, "clm", load=former["folder"], overrides=overrides_after, vocab_size=131)
    result = run_ranks(world_size_after, launch, case)[0]
    np.testing.assert_allclose(result["losses"], former["losses"][STOP:], rtol=1e-5)
