"""A run taken up again goes on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megatron_ettin.convert.checkpoint_reader import CheckpointReader
from tests.checkpoint.test_save import stored_tensors
from tests.checkpoint.training import Case, launch, start
from tests.helpers.distributed import run_ranks
from tests.helpers.training import save_training

STOP, END = 3, 9
"""Six steps follow the resume: wrong optimizer state shows only after the first."""

TP2 = (("tensor_model_parallel_size", 2),)
PP2 = (("pipeline_model_parallel_size", 2),)
DISTRIBUTED = (("use_distributed_optimizer", True),)
BF16 = (("bf16", True),)
RESIDUAL = (*BF16, ("fp32_residual_connection", True))
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
        ("mlm", 2, (*STABLE, *PP2, *RESIDUAL)),
        ("clm", 2, (*STABLE, *SEQUENCE, *RESIDUAL)),
        ("mlm", 2, (*STABLE, *DISTRIBUTED, *RESIDUAL)),
        ("clm", 1, (*MUON, *RESIDUAL)),
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


def refusal(case: Case) -> str:
    from megatron_ettin.errors import ConfigError

    try:
        launch(case)
    except ConfigError as error:
        return str(error)
    return ""


def test_other_optimizers_and_models_are_refused_on_all_ranks(uninterrupted: Uninterrupted) -> None:
    folder = uninterrupted("clm", "one")["folder"]
    optimizer, *others = run_ranks(2, refusal, Case(END, "clm", load=folder, overrides=(*PP2, *MUON)))
    assert optimizer.startswith(f"--load {folder}: holds the state of another optimizer, it lacks optimizer.state.mom")
    assert others == [optimizer]
    deeper = (("num_layers", 7),)
    [model] = run_ranks(1, refusal, Case(END, "clm", load=folder, overrides=deeper))
    assert model.startswith(f"--load {folder}: holds other tensors than this model, it lacks ")


@pytest.mark.parametrize(("before", "after"), [("one", "tp2"), ("tp2", "one")])
def test_vocabulary_padding_may_differ(tmp_path: Path, before: str, after: str) -> None:
    """131 tokens are 136 rows at one rank and 144 at two; the extra rows never matter."""
    (world_size, overrides), (world_size_after, overrides_after) = LAYOUTS[before], LAYOUTS[after]
    case = Case(END, "clm", save=str(tmp_path), save_at=STOP, overrides=overrides, vocab_size=131)
    former = run_ranks(world_size, launch, case)[0]
    case = Case(END, "clm", load=former["folder"], overrides=overrides_after, vocab_size=131)
    result = run_ranks(world_size_after, launch, case)[0]
    np.testing.assert_allclose(result["losses"], former["losses"][STOP:], rtol=1e-5)


def begin_anew(case: Case, folder: str) -> tuple[int, str]:
    """Take the weights alone and save at once; return the optimizer's steps and the folder."""
    from megatron_ettin.checkpoint.load import load_afresh
    from megatron_ettin.optim.core_state import optimizer_steps

    training, state = start(case)
    load_afresh(Path(folder), training.parts)
    return optimizer_steps(training.optimizer), str(save_training(Path(case.save), training, state))


@pytest.mark.parametrize(
    ("world_size", "layout"),
    [(1, ()), (2, TP2), (2, DISTRIBUTED), (2, (*PP2, *STABLE)), (1, MUON)],
    ids=["one", "tp2", "dp2-distributed", "pp2-stable", "muon"],
)
def test_weights_taken_alone_are_those_of_fp32(tmp_path: Path, world_size: int, layout: tuple[Any, ...]) -> None:
    """To the bit, though the model itself holds them rounded to bf16; of the optimizer's state nothing is left."""
    case = Case(STOP, "mlm", save=str(tmp_path / "former"), overrides=(*layout, *BF16))
    former = run_ranks(world_size, launch, case)[0]["folder"]
    anew = replace(case, save=str(tmp_path / "anew"))
    (steps, folder), *_ = run_ranks(world_size, begin_anew, anew, former)
    assert steps == 0
    one, other = CheckpointReader(Path(former)), CheckpointReader(Path(folder))
    names = stored_tensors(Path(former))
    assert names == stored_tensors(Path(folder))
    moments = {name for name in names if name.startswith("optimizer.")}
    assert moments
    for name in moments:
        assert one.tensor(name).any()
        assert not other.tensor(name).any()
    weights = {name: one.tensor(name) for name in names.keys() - moments}
    assert any((value.bfloat16().float() != value).any() for value in weights.values())
    for name, value in weights.items():
        assert torch.equal(other.tensor(name), value), name
