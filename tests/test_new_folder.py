"""Output folders: whole or not there, and never at the price of someone else's files."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from megatron_ettin.errors import ConfigError
from megatron_ettin.files import new_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_appears_when_the_block_ends(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep" / "out", overwrite=False, known_by="mark") as partial:
        (partial / "mark").write_text("new")
        assert not (tmp_path / "deep" / "out").exists()
    assert names(tmp_path / "deep") == ["out"]
    assert names(tmp_path / "deep" / "out") == ["mark"]


def test_an_empty_folder_may_be_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out", overwrite=False, known_by="mark") as partial:
        (partial / "mark").write_text("new")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["mark"]


@pytest.mark.parametrize("error", [RuntimeError("ours"), KeyboardInterrupt()])
def test_nothing_is_left_when_the_block_fails_and_the_former_folder_stays(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mark").write_text("old")

    def fail() -> None:
        with new_folder(tmp_path / "out", overwrite=True, known_by="mark") as partial:
            (partial / "mark").write_text("new")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "mark").read_text() == "old"


def test_a_former_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in ("mark", "left over"):
        (tmp_path / "out" / name).write_text("old")
    with new_folder(tmp_path / "out", overwrite=True, known_by="mark") as partial:
        (partial / "mark").write_text("new")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["mark"]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"--save .*out: No space left on device"),
        new_folder(tmp_path / "out", overwrite=False, known_by="mark"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_folders_files_and_links_are_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mark").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other").write_text("mine")
    for taken in ("link", "file", "full"):
        with pytest.raises(ConfigError), new_folder(tmp_path / taken, overwrite=overwrite, known_by="mark"):
            pytest.fail("the block must not run")
    assert names(tmp_path) == ["file", "full", "link", "mine"]
    assert (tmp_path / "mine" / "mark").read_text() == "mine"
