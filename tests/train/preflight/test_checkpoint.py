"""A damaged checkpoint is refused with its file named, or passed over with --load-fallback."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ettin.checkpoint.folder import integrity
from megatron_ettin.checkpoint.folder.layout import (
    METRICS_FILE,
    RUN_FILE,
    SET_ASIDE_FOLDER,
    STATE_FOLDER,
    TOKENIZER_FOLDER,
    list_steps,
    step_folder_name,
)
from megatron_ettin.errors import ConfigError
from megatron_ettin.train.preflight.prepare import PreparedRun
from tests.helpers.distributed import run_ranks
from tests.helpers.launches import Material, assert_same_weights, launch, metrics, settings, write_material
from tests.helpers.launches import prepare as prepare_config

STEPS = [2, 4, 6]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return write_material(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, material: Material) -> Path:
    """Six steps of two ranks, saved at each second one."""
    save = tmp_path_factory.mktemp("trained")
    run_ranks(2, launch, settings(material, save=str(save), train_iters=6, save_interval=2))
    assert list_steps(save) == STEPS
    return save


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "copy")


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


FILES = [
    f"{STATE_FOLDER}/__0_0.distcp",
    f"{STATE_FOLDER}/__1_0.distcp",
    f"{STATE_FOLDER}/.metadata",
    f"{STATE_FOLDER}/common.pt",
    RUN_FILE,
    f"{TOKENIZER_FOLDER}/tokenizer.json",
]


def prepare(save: Path, material: Material, **overrides: Any) -> PreparedRun:
    """What a launch finds out before torch is loaded."""
    values = {"save": str(save), "load": str(save), "train_iters": 8, "save_interval": 2, **overrides}
    return prepare_config(settings(material, **values), world_size=2)


@pytest.mark.parametrize("damage", [flip_bit, cut_short, os.unlink], ids=["flipped", "cut-short", "missing"])
@pytest.mark.parametrize("name", FILES)
def test_any_damaged_file_is_named_and_refused(
    copy: Path, material: Material, name: str, damage: Callable[[Path], None]
) -> None:
    damage(copy / step_folder_name(6) / name)
    with pytest.raises(ConfigError) as refusal:
        prepare(copy, material)
    told = str(refusal.value)
    assert told.startswith(f"--load {copy / step_folder_name(6)}: damaged, {name} ")
    assert "--load-fallback" in told


def test_fallback_takes_the_one_before_and_says_so(copy: Path, material: Material) -> None:
    cut_short(copy / step_folder_name(6) / FILES[0])
    flip_bit(copy / step_folder_name(4) / RUN_FILE)
    prepared = prepare(copy, material, load_fallback=True)
    assert prepared.config.checkpoint.load_step == 2
    assert [note for note in prepared.notes if "skipped" in note] == list(prepared.notes[:2])
    assert f"{step_folder_name(6)}: damaged, {FILES[0]} has" in prepared.notes[0]
    assert f"{step_folder_name(4)}: damaged, {RUN_FILE} has" in prepared.notes[1]


def test_fallback_goes_before_the_step_that_was_asked_for(copy: Path, material: Material) -> None:
    flip_bit(copy / step_folder_name(4) / FILES[1])
    assert prepare(copy, material, load_fallback=True).config.checkpoint.load_step == 0
    assert prepare(copy, material, load_fallback=True, load_step=4).config.checkpoint.load_step == 2


def test_without_damage_the_latest_is_taken(copy: Path, material: Material) -> None:
    prepared = prepare(copy, material, load_fallback=True)
    assert prepared.config.checkpoint.load_step == 0
    assert not any("skipped" in note for note in prepared.notes)


def test_fallback_without_an_undamaged_one_is_refused(copy: Path, material: Material) -> None:
    for step in STEPS:
        flip_bit(copy / step_folder_name(step) / RUN_FILE)
    with pytest.raises(ConfigError, match=r"step_0000006: damaged.*found no undamaged one"):
        prepare(copy, material, load_fallback=True)


def test_fallback_needs_a_folder_to_choose_in(copy: Path, material: Material) -> None:
    with pytest.raises(ConfigError, match="--load-fallback: chooses in a --save folder"):
        prepare(copy, material, load=str(copy / step_folder_name(4)), load_fallback=True)
    flip_bit(copy / step_folder_name(4) / RUN_FILE)
    with pytest.raises(ConfigError) as refusal:
        prepare(copy, material, load=str(copy / step_folder_name(4)))
    assert "--load-fallback" not in str(refusal.value)


def launch_with_large_files(run: Any) -> str:
    """Launch, or return the refusal, as if all files were long ones: ranks look at them together."""
    from unittest.mock import patch

    with patch.object(integrity, "SMALL_FILE_BYTES", 0):
        try:
            return launch(run)
        except ConfigError as error:
            return f"refused: {error}"


@pytest.mark.parametrize("name", FILES[:2])
def test_ranks_find_damage_in_large_files_together(copy: Path, material: Material, name: str) -> None:
    """Whichever of them reads the file, all refuse, and nothing of the checkpoint was taken up."""
    flip_bit(copy / step_folder_name(6) / name)
    run = settings(material, save=str(copy), load=str(copy), train_iters=8, save_interval=2)
    for told in run_ranks(2, launch_with_large_files, run):
        assert told.startswith(f"refused: --load {copy / step_folder_name(6)}: damaged, {name} has checksum")
    assert list_steps(copy) == STEPS
    evaluation = settings(material, load=str(copy), eval_only=True)
    for told in run_ranks(2, launch_with_large_files, evaluation):
        assert told.startswith("refused:")


def test_a_run_goes_on_before_the_damage_and_leaves_no_trace_of_it(
    copy: Path, trained: Path, tmp_path: Path, material: Material
) -> None:
    """The damaged checkpoint is set aside, later figures are dropped, and all is as in a run that went through."""
    flip_bit(copy / step_folder_name(6) / FILES[1])
    flip_bit(copy / step_folder_name(4) / FILES[0])
    run = settings(material, save=str(copy), load=str(copy), load_fallback=True, train_iters=8, save_interval=2)
    out = run_ranks(2, launch_with_large_files, run)[0]
    assert f"skipped: --load {copy / step_folder_name(6)}: damaged, {FILES[1]}" in out
    assert f"skipped: --load {copy / step_folder_name(4)}: damaged, {FILES[0]}" in out
    assert f"loaded {copy / step_folder_name(2)}: step 2" in out
    assert {path.name for path in (copy / SET_ASIDE_FOLDER).iterdir()} == {step_folder_name(4), step_folder_name(6)}
    assert list_steps(copy) == [2, 4, 6, 8]
    whole = tmp_path / "whole"
    run_ranks(2, launch, settings(material, save=str(whole), train_iters=8, save_interval=2))
    assert (copy / METRICS_FILE).exists()
    assert metrics(copy) == metrics(whole)
    assert_same_weights(copy, whole)
    for step in (4, 6):
        integrity.check_large_files(copy / step_folder_name(step))
