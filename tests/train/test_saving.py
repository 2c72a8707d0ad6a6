"""Launches with asynchronous saves, and launches that keep only some checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megatron_ettin.checkpoint.folder.integrity import check_large_files
from megatron_ettin.checkpoint.folder.layout import list_steps, resolve_checkpoint, step_folder_name
from megatron_ettin.config.checks import check_run
from megatron_ettin.errors import ConfigError
from tests.helpers.distributed import run_ranks
from tests.helpers.launches import Material, assert_same_weights, launch, metrics, settings, write_material
from tests.helpers.runs import tiny_run

DISTRIBUTED = {"use_distributed_optimizer": True, "optimizer": "stable_adamw", "clip_grad": 0.0}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return write_material(tmp_path_factory.mktemp("material"))


@pytest.mark.parametrize(("world_size", "layout"), [(1, {}), (2, DISTRIBUTED)], ids=["one", "distributed"])
def test_resume_with_asynchronous_saves_is_bit_equal(
    tmp_path: Path, material: Material, world_size: int, layout: dict[str, Any]
) -> None:
    """The uninterrupted run saves synchronously."""
    uninterrupted, parts = tmp_path / "uninterrupted", tmp_path / "parts"
    run_ranks(world_size, launch, settings(material, save=str(uninterrupted), save_interval=1, **layout))
    layout = {**layout, "async_save": True, "save_interval": 1}
    output = run_ranks(world_size, launch, settings(material, save=str(parts), exit_interval=5, **layout))[0]
    saved = [line for line in output.splitlines() if line.startswith("saved ")]
    assert saved == [f"saved {parts / step_folder_name(step)}" for step in range(1, 6)]
    run_ranks(world_size, launch, settings(material, save=str(parts), load=str(parts), **layout))
    assert metrics(parts) == metrics(uninterrupted)
    assert list_steps(parts) == list_steps(uninterrupted) == list(range(1, 9))
    assert_same_weights(uninterrupted, parts)
    for step in range(1, 9):
        check_large_files(resolve_checkpoint(parts, step))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_last_checkpoints_and_multiples_are_kept(tmp_path: Path, material: Material, asynchronous: bool) -> None:
    kept: dict[str, Any] = {
        "keep_last_checkpoints": 2,
        "save_retain_interval": 3,
        "save_interval": 1,
        "async_save": asynchronous,
    }
    run_ranks(2, launch, settings(material, save=str(tmp_path), **kept))
    assert list_steps(tmp_path) == [3, 6, 7, 8]
    assert not list(tmp_path.glob(".deleting*"))
    # The checkpoint that a launch resumes from is kept until it has saved another one.
    more = settings(material, save=str(tmp_path), load=str(tmp_path), **kept, train_iters=9)
    run_ranks(2, launch, more)
    assert list_steps(tmp_path) == [3, 6, 8, 9]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"load_fallback": True}, "--load-fallback: needs --load"),
        ({"load_step": 3}, "--load-step 3: needs --load"),
        ({"save_retain_interval": 3}, "--save-retain-interval 3: needs --keep-last-checkpoints"),
        ({"save_retain_interval_tokens": 3}, "--save-retain-interval-tokens 3: needs --keep-last-checkpoints"),
        (
            {"keep_last_checkpoints": 1, "save_retain_interval": 3, "save_retain_interval_tokens": 3},
            "--save-retain-interval 3 set the same duration",
        ),
    ],
)
def test_settings_without_their_prerequisite_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        check_run(tiny_run("mlm", **values), 1, planning=True)
    assert words in str(refusal.value)
