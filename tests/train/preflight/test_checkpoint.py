"""A damaged checkpoint is refused and its file named, or skipped with --load-fallback."""

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
from megatron_ettin.config.run import RunConfig
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
    """Six steps of two ranks, saved every second step."""
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
    """Prepare a launch that resumes."""
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
    message = str(refusal.value)
    assert message.startswith(f"--load {copy / step_folder_name(6)}: damaged, {name} ")
    assert "--load-fallback" in message


def test_fallback_loads_the_previous_checkpoint_and_reports_it(copy: Path, material: Material) -> None:
    cut_short(copy / step_folder_name(6) / FILES[0])
    flip_bit(copy / step_folder_name(4) / RUN_FILE)
    prepared = prepare(copy, material, load_fallback=True)
    assert prepared.config.checkpoint.load_step == 2
    assert [note for note in prepared.notes if "skipped" in note] == list(prepared.notes[:2])
    assert f"{step_folder_name(6)}: damaged, {FILES[0]} has" in prepared.notes[0]
    assert f"{step_folder_name(4)}: damaged, {RUN_FILE} has" in prepared.notes[1]


def test_fallback_loads_a_step_before_the_requested_one(copy: Path, material: Material) -> None:
    flip_bit(copy / step_folder_name(4) / FILES[1])
    assert prepare(copy, material, load_fallback=True).config.checkpoint.load_step == 0
    assert prepare(copy, material, load_fallback=True, load_step=4).config.checkpoint.load_step == 2


def test_without_damage_the_latest_is_loaded(copy: Path, material: Material) -> None:
    prepared = prepare(copy, material, load_fallback=True)
    assert prepared.config.checkpoint.load_step == 0
    assert not any("skipped" in note for note in prepared.notes)


def test_fallback_without_an_undamaged_one_is_refused(copy: Path, material: Material) -> None:
    for step in STEPS:
        flip_bit(copy / step_folder_name(step) / RUN_FILE)
    with pytest.raises(ConfigError, match=r"step_0000006: damaged.*found no undamaged one"):
        prepare(copy, material, load_fallback=True)


def test_fallback_needs_a_folder_of_checkpoints(copy: Path, material: Material) -> None:
    with pytest.raises(ConfigError, match="--load-fallback: chooses in a --save folder"):
        prepare(copy, material, load=str(copy / step_folder_name(4)), load_fallback=True)
    flip_bit(copy / step_folder_name(4) / RUN_FILE)
    with pytest.raises(ConfigError) as refusal:
        prepare(copy, material, load=str(copy / step_folder_name(4)))
    assert "--load-fallback" not in str(refusal.value)


def launch_with_large_files(config: RunConfig) -> str:
    """Launch, or return the refusal, with every file treated as large, so that ranks verify it together."""
    from unittest.mock import patch

    with patch.object(integrity, "SMALL_FILE_BYTES", 0):
        try:
            return launch(config)
        except ConfigError as error:
            return f"refused: {error}"


@pytest.mark.parametrize("name", FILES[:2])
def test_ranks_find_damage_in_large_files_together(copy: Path, material: Material, name: str) -> None:
    """All ranks refuse, whichever of them reads the file, and the checkpoint is not restored."""
    flip_bit(copy / step_folder_name(6) / name)
    config = settings(material, save=str(copy), load=str(copy), train_iters=8, save_interval=2)
    for output in run_ranks(2, launch_with_large_files, config):
        assert output.startswith(f"refused: --load {copy / step_folder_name(6)}: damaged, {name} has checksum")
    assert list_steps(copy) == STEPS
    evaluation = settings(material, load=str(copy), eval_only=True)
    for output in run_ranks(2, launch_with_large_files, evaluation):
        assert output.startswith("refused:")


def test_a_run_resumes_before_the_damage_and_equals_the_uninterrupted_one(
    copy: Path, trained: Path, tmp_path: Path, material: Material
) -> None:
    """The damaged checkpoints are set aside and later records dropped."""
    flip_bit(copy / step_folder_name(6) / FILES[1])
    flip_bit(copy / step_folder_name(4) / FILES[0])
    config = settings(material, save=str(copy), load=str(copy), load_fallback=True, train_iters=8, save_interval=2)
    output = run_ranks(2, launch_with_large_files, config)[0]
    assert f"skipped: --load {copy / step_folder_name(6)}: damaged, {FILES[1]}" in output
    assert f"skipped: --load {copy / step_folder_name(4)}: damaged, {FILES[0]}" in output
    assert f"loaded {copy / step_folder_name(2)}: step 2" in output
    assert {path.name for path in (copy / SET_ASIDE_FOLDER).iterdir()} == {step_folder_name(4), step_folder_name(6)}
    assert list_steps(copy) == [2, 4, 6, 8]
    uninterrupted = tmp_path / "uninterrupted"
    run_ranks(2, launch, settings(material, save=str(uninterrupted), train_iters=8, save_interval=2))
    assert (copy / METRICS_FILE).exists()
    assert metrics(copy) == metrics(uninterrupted)
    assert_same_weights(copy, uninterrupted)
    for step in (4, 6):
        integrity.check_large_files(copy / step_folder_name(step))
