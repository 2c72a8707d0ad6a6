"""A resumed run continues as if it had never stopped."""

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

STOP, END = 2, 6
"""Four steps after the resume: wrong optimizer state shows only after the first."""

TP2 = (("tensor_model_parallel_size", 2),)
PP2 = (("pipeline_model_parallel_size", 2),)
DISTRIBUTED = (("use_distributed_optimizer", True),)
BF16 = (("bf16", True),)
RESIDUAL = (*BF16, ("fp32_residual_connection", True))
STABLE = (("optimizer", "stable_adamw"),)
MUON = (("optimizer", "muon"),)
SEQUENCE = (*TP2, ("sequence_parallel", True))


def case_id(value: Any) -> str:
    """Return a parameter's part of a test's id."""
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
    ids=case_id,
)
def test_resume_under_the_same_layout_is_bit_equal(
    tmp_path: Path, objective: str, world_size: int, overrides: tuple[Any, ...]
) -> None:
    case = Case(END, objective, dropout=0.1, overrides=overrides)
    uninterrupted = run_ranks(world_size, launch, replace(case, save=str(tmp_path), save_at=STOP))
    resumed = run_ranks(world_size, launch, replace(case, load=uninterrupted[0]["folder"]))
    for expected, result in zip(uninterrupted, resumed, strict=True):
        assert result["losses"] == expected["losses"][STOP:]
        assert result["weights"].keys() == expected["weights"].keys()
        for name, value in result["weights"].items():
            np.testing.assert_array_equal(value, expected["weights"][name], err_msg=name)
        assert result["state"] == expected["state"]
        assert result["notes"] == ()


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
    """Return the uninterrupted run of an objective under a layout, saved at STOP; each is trained once."""

    @cache
    def run(objective: str, layout: str, optimizer: tuple[Any, ...] = ()) -> dict[str, Any]:
        world_size, overrides = LAYOUTS[layout]
        save = tmp_path_factory.mktemp(f"{objective}-{layout}")
        case = Case(END, objective, save=str(save), save_at=STOP, overrides=(*overrides, *optimizer))
        result = run_ranks(world_size, launch, case)[0]
        assert isinstance(result, dict)
        return result

    return run


@pytest.mark.parametrize(("objective", "before", "after", "optimizer"), CHANGES, ids=case_id)
def test_resume_under_another_layout_gives_the_same_losses(
    objective: str, before: str, after: str, optimizer: tuple[Any, ...], uninterrupted: Uninterrupted
) -> None:
    expected = uninterrupted(objective, before, optimizer)
    world_size, overrides = LAYOUTS[after]
    case = Case(END, objective, load=expected["folder"], overrides=(*overrides, *optimizer))
    for result in run_ranks(world_size, launch, case):
        np.testing.assert_allclose(result["losses"], expected["losses"][STOP:], rtol=1e-5)
        assert "another layout" in result["notes"][0]


def test_losses_depend_on_the_optimizer_state(uninterrupted: Uninterrupted) -> None:
    """Without the moments, the losses differ by far more than the tolerance of the test above."""
    expected = uninterrupted("clm", "one")
    losses = run_ranks(1, launch_without_optimizer, Case(END, "clm", load=expected["folder"]))[0]
    restored = expected["losses"][STOP:]
    assert losses[0] == pytest.approx(restored[0], rel=1e-6)
    assert max(abs(np.array(losses) / np.array(restored) - 1)) > 1e-3


def launch_without_optimizer(case: Case) -> list[float]:
    """Continue from the weights alone."""
    from unittest.mock import patch

    from megatron_ettin.checkpoint import load

    steps = STOP
    with patch.object(load, "_optimizer_steps", lambda folder: None):
        state = load.TrainingState.start(case.objective)
        state.step = steps
        with patch.object(load.TrainingState, "start", lambda *args, **kwargs: state):
            return launch(case)["losses"]


def refusal(case: Case) -> str:
    from megatron_ettin.errors import ConfigError

    try:
        launch(case)
    except ConfigError as error:
        return str(error)
    return ""


def test_another_optimizer_or_model_is_refused_on_all_ranks(uninterrupted: Uninterrupted) -> None:
    folder = uninterrupted("clm", "one")["folder"]
    optimizer, *others = run_ranks(2, refusal, Case(END, "clm", load=folder, overrides=(*PP2, *MUON)))
    assert optimizer.startswith(f"--load {folder}: was written by another optimizer, it lacks optimizer.state.mom")
    assert others == [optimizer]
    deeper = (("num_layers", 7),)
    [model] = run_ranks(1, refusal, Case(END, "clm", load=folder, overrides=deeper))
    assert model.startswith(f"--load {folder}: has other tensors than this model, it lacks ")


@pytest.mark.parametrize(("before", "after"), [("one", "tp2"), ("tp2", "one")])
def test_vocabulary_padding_may_differ(tmp_path: Path, before: str, after: str) -> None:
    """131 tokens take 136 rows on one rank and 144 on two; the padding rows have no effect."""
    (world_size, overrides), (world_size_after, overrides_after) = LAYOUTS[before], LAYOUTS[after]
    case = Case(END, "clm", save=str(tmp_path), save_at=STOP, overrides=overrides, vocab_size=131)
    expected = run_ranks(world_size, launch, case)[0]
    case = Case(END, "clm", load=expected["folder"], overrides=overrides_after, vocab_size=131)
    result = run_ranks(world_size_after, launch, case)[0]
    np.testing.assert_allclose(result["losses"], expected["losses"][STOP:], rtol=1e-5)


def reset_optimizer(case: Case, folder: str) -> tuple[int, str]:
    """Load the weights alone and save at once; return the optimizer's steps and the folder."""
    from megatron_ettin.checkpoint.load import load_with_fresh_optimizer
    from megatron_ettin.optim.core_state import optimizer_steps

    training, state = start(case)
    load_with_fresh_optimizer(Path(folder), training.parts)
    return optimizer_steps(training.optimizer), str(save_training(Path(case.save), training, state))


@pytest.mark.parametrize(
    ("world_size", "layout"),
    [(1, ()), (2, TP2), (2, DISTRIBUTED), (2, (*PP2, *STABLE)), (1, MUON)],
    ids=["one", "tp2", "dp2-distributed", "pp2-stable", "muon"],
)
def test_weights_loaded_alone_are_those_of_fp32(tmp_path: Path, world_size: int, layout: tuple[Any, ...]) -> None:
    """Bit for bit, although the model has them rounded to bf16; the optimizer state is reset."""
    case = Case(STOP, "mlm", save=str(tmp_path / "trained"), overrides=(*layout, *BF16))
    trained = run_ranks(world_size, launch, case)[0]["folder"]
    reset = replace(case, save=str(tmp_path / "reset"))
    (steps, folder), *_ = run_ranks(world_size, reset_optimizer, reset, trained)
    assert steps == 0
    one, other = CheckpointReader(Path(trained)), CheckpointReader(Path(folder))
    names = stored_tensors(Path(trained))
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
