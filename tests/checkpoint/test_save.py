"""What a save writes, also when it is interrupted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from megatron_ettin.checkpoint.folder.layout import (
    FORMAT_VERSION,
    LATEST_FILE,
    RUN_FILE,
    STATE_FOLDER,
    half_written_folders,
    list_steps,
    read_run_json,
    resolve_checkpoint,
)
from megatron_ettin.config.run import RunConfig
from megatron_ettin.convert.tensor_names import tensor_names
from megatron_ettin.errors import ConfigError
from tests.checkpoint.training import Case, launch
from tests.helpers.distributed import run_ranks
from tests.helpers.runs import TINY

TP2 = ("tensor_model_parallel_size", 2)
DISTRIBUTED_BF16 = (("use_distributed_optimizer", True), ("bf16", True))


def stored_tensors(folder: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    metadata = FileSystemReader(folder / STATE_FOLDER).read_metadata().state_dict_metadata
    return {
        name: (tuple(stored.size), stored.properties.dtype)
        for name, stored in metadata.items()
        if isinstance(stored, TensorStorageMetadata)
    }


@pytest.mark.parametrize(
    ("world_size", "overrides"), [(1, ()), (2, (TP2,)), (2, DISTRIBUTED_BF16)], ids=["one", "tp2", "distributed-bf16"]
)
def test_names_shapes_and_precision_do_not_depend_on_the_layout(
    tmp_path: Path, world_size: int, overrides: tuple[Any, ...]
) -> None:
    """Every weight and both moments once, in fp32, under the names that conversion reads."""
    result = run_ranks(world_size, launch, Case(1, save=str(tmp_path), overrides=overrides))[0]
    weights = {name.canonical: name.shape for name in tensor_names("mlm", TINY)}
    prefixes = ("", "optimizer.state.exp_avg.", "optimizer.state.exp_avg_sq.")
    expected = {prefix + name: (shape, torch.float32) for prefix in prefixes for name, shape in weights.items()}
    assert stored_tensors(Path(result["folder"])) == expected


def test_run_json_describes_the_run(tmp_path: Path) -> None:
    overrides = (TP2, ("global_batch_size", 4))
    folder = Path(run_ranks(2, launch, Case(2, "clm", save=str(tmp_path), overrides=overrides))[0]["folder"])
    described = read_run_json(folder)
    assert described["format_version"] == FORMAT_VERSION
    assert (described["step"], described["consumed_samples"], described["objective"]) == (2, 8, "clm")
    tokens = described["consumed_tokens"]
    assert described["lineage"] == [
        {"objective": "clm", "steps": 2, "tokens": tokens, "parent": "", "phase": "pretrain"}
    ]
    assert described["layout"] == {"device": "cpu", "tp_size": 2, "pp_size": 1, "dp_size": 1}
    config = RunConfig.from_dict(described["config"])
    assert (config.model, config.parallel.tensor_model_parallel_size) == (
        replace(TINY, attention_output_dropout=0.0),
        2,
    )
    assert described["versions"]["megatron-core"]
    assert json.loads((tmp_path / LATEST_FILE).read_text()) == {"step": 2, "folder": folder.name}


class Killed(BaseException):
    """Stands for the end of the process."""


def launch_killed_at(moment: str, case: Case) -> None:
    """Save, but die at ``moment`` of the save on every rank."""
    from megatron_ettin.checkpoint import save

    with patch.object(save, moment, side_effect=Killed):
        try:
            launch(case)
        except Killed:
            return
    raise AssertionError(f"the save never reached {moment}")


@pytest.mark.parametrize("moment", ["attempt_write", "describe_run", "_write_files", "mark_complete"])
def test_save_interrupted_before_the_marker_is_not_a_checkpoint(tmp_path: Path, moment: str) -> None:
    first = run_ranks(1, launch, Case(2, save=str(tmp_path)))[0]
    run_ranks(1, launch_killed_at, moment, Case(4, load=first["folder"], save=str(tmp_path)))
    assert half_written_folders(tmp_path) == [tmp_path / "step_0000004"]
    assert resolve_checkpoint(tmp_path) == Path(first["folder"])
    # The next launch overwrites the half-written folder.
    again = run_ranks(1, launch, Case(4, load=first["folder"], save=str(tmp_path)))[0]
    assert resolve_checkpoint(tmp_path) == Path(again["folder"])
    assert half_written_folders(tmp_path) == []


def test_save_interrupted_after_the_marker_is_a_checkpoint(tmp_path: Path) -> None:
    run_ranks(1, launch, Case(2, save=str(tmp_path)))
    run_ranks(1, launch_killed_at, "point_latest", Case(4, save=str(tmp_path)))
    assert json.loads((tmp_path / LATEST_FILE).read_text())["step"] == 2
    assert list_steps(tmp_path) == [2, 4]
    assert read_run_json(resolve_checkpoint(tmp_path))["step"] == 4


def drop_optimizer(folder: Path) -> None:
    """Turn a checkpoint into one of weights alone, like an imported model."""
    torch.save({}, folder / STATE_FOLDER / "common.pt")


@pytest.mark.parametrize("overrides", [(), DISTRIBUTED_BF16], ids=["fp32", "distributed-bf16"])
def test_weights_alone_start_a_fresh_optimizer_at_step_0(tmp_path: Path, overrides: tuple[Any, ...]) -> None:
    first = run_ranks(2, launch, Case(3, save=str(tmp_path), overrides=overrides))[0]
    drop_optimizer(Path(first["folder"]))
    result = run_ranks(2, launch, Case(0, load=first["folder"], overrides=overrides))[0]
    assert "weights only" in result["notes"][0]
    assert result["state"].step == 0
    assert [phase.parent for phase in result["state"].lineage] == ["", first["folder"]]
    for name, value in result["weights"].items():
        np.testing.assert_array_equal(value, first["weights"][name], err_msg=name)
    # The optimizer's fp32 copy of the weights, if it has one, is the loaded one: one step changes them a little.
    moved = run_ranks(2, launch, Case(1, load=first["folder"], overrides=overrides))[0]
    for name, value in moved["weights"].items():
        assert 0 < np.abs(value - first["weights"][name]).max() < 0.02, name


def load_other_shape(case: Case) -> str:
    """Load into a model with another number of layers; return the refusal."""
    from tests.checkpoint import training

    with patch.object(training, "TINY", replace(TINY, num_layers=int(case.save))):
        try:
            launch(replace(case, save=""))
        except ConfigError as error:
            return str(error)
    raise AssertionError("loaded a model of another shape")


@pytest.mark.parametrize(("layers", "reason"), [("3", "also has"), ("5", "lacks")])
def test_tensors_of_another_model_are_refused(tmp_path: Path, layers: str, reason: str) -> None:
    """The last check: launches compare run.json first."""
    first = run_ranks(1, launch, Case(1, save=str(tmp_path)))[0]
    message = run_ranks(1, load_other_shape, Case(1, load=first["folder"], save=layers))[0]
    assert reason in message
    assert "transformer.layers." in message
    assert "\n" not in message


def test_damaged_file_is_detected_before_it_is_read(tmp_path: Path) -> None:
    folder = Path(run_ranks(1, launch, Case(1, save=str(tmp_path)))[0]["folder"])
    (victim,) = (folder / STATE_FOLDER).glob("*.distcp")
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=victim.name):
        resolve_checkpoint(tmp_path)
    assert (folder / RUN_FILE).exists()
