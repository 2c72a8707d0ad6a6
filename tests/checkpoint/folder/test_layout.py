"""Which folder --load names, when it is a checkpoint, and the message if it is not."""

from __future__ import annotations

import binascii
import json
import os
from pathlib import Path

import pytest

from megatron_ettin.checkpoint.folder import integrity, layout
from megatron_ettin.errors import ConfigError
from megatron_ettin.files import write_json_atomic


def write_step(save: Path, step: int, *, complete: bool = True) -> Path:
    folder = save / layout.step_folder_name(step)
    (folder / layout.STATE_FOLDER).mkdir(parents=True)
    (folder / layout.STATE_FOLDER / "__0_0.distcp").write_bytes(b"x" * 100)
    write_json_atomic(folder / layout.RUN_FILE, {"format_version": layout.FORMAT_VERSION, "step": step})
    if complete:
        integrity.mark_complete(folder)
        layout.point_latest(save, step)
    return folder


def refusal(path: Path, step: int = 0) -> str:
    with pytest.raises(ConfigError) as caught:
        layout.resolve_checkpoint(path, step)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_save_folder_resolves_to_its_latest_complete_step(tmp_path: Path) -> None:
    write_step(tmp_path, 5)
    newest = write_step(tmp_path, 10)
    write_step(tmp_path, 15, complete=False)
    assert layout.resolve_checkpoint(tmp_path) == newest
    assert layout.list_steps(tmp_path) == [5, 10]
    assert [folder.name for folder in layout.half_written_folders(tmp_path)] == ["step_0000015"]


def test_given_step_is_resolved(tmp_path: Path) -> None:
    wanted = write_step(tmp_path, 5)
    write_step(tmp_path, 10)
    assert layout.resolve_checkpoint(tmp_path, 5) == wanted
    assert layout.resolve_checkpoint(str(wanted)) == wanted
    assert layout.resolve_checkpoint(wanted, 5) == wanted


def test_steps_beyond_seven_digits_are_listed(tmp_path: Path) -> None:
    write_step(tmp_path, 9_999_999)
    newest = write_step(tmp_path, 10_000_000)
    assert layout.resolve_checkpoint(tmp_path) == newest


def test_link_to_a_step_is_followed(tmp_path: Path) -> None:
    write_step(tmp_path, 5)
    link = tmp_path / "best"
    link.symlink_to(layout.step_folder_name(5))
    assert layout.read_run_json(layout.resolve_checkpoint(link))["step"] == 5


def test_copy_of_a_step_may_have_any_name(tmp_path: Path) -> None:
    copy = write_step(tmp_path, 5).rename(tmp_path / "best")
    assert layout.resolve_checkpoint(copy) == copy
    assert refusal(copy, 6).startswith("--load-step 6:")


def test_message_lists_the_existing_steps(tmp_path: Path) -> None:
    write_step(tmp_path, 5)
    write_step(tmp_path, 7, complete=False)
    message = refusal(tmp_path, 6)
    assert message.startswith("--load-step 6:")
    assert "complete steps: 5" in message
    assert "half-written: step_0000007" in message
    assert "half-written" in refusal(tmp_path / layout.step_folder_name(7))
    assert refusal(tmp_path / layout.step_folder_name(5), 6).startswith("--load-step 6:")


def test_folder_without_checkpoints_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path).startswith(f"--load {tmp_path}: has no complete checkpoint")
    assert "no such folder" in refusal(tmp_path / "absent")


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_message_names_a_damaged_file(tmp_path: Path, damage: str) -> None:
    folder = write_step(tmp_path, 5)
    victim = folder / layout.STATE_FOLDER / "__0_0.distcp"
    if damage == "missing":
        victim.unlink()
    else:
        os.truncate(victim, 99)
    assert "state/__0_0.distcp" in refusal(tmp_path)


def test_marker_lists_every_file(tmp_path: Path) -> None:
    folder = write_step(tmp_path, 5)
    records = json.loads((folder / integrity.MARKER_FILE).read_text())["files"]
    assert records["state/__0_0.distcp"] == {"bytes": 100, "crc32": f"{binascii.crc32(b'x' * 100):08x}"}
    assert set(records) == {"state/__0_0.distcp", layout.RUN_FILE}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (json.dumps({"format_version": layout.FORMAT_VERSION + 1}), "format 2 is not supported"),
        ("{", "does not describe a checkpoint"),
        ("[]", "does not describe a checkpoint"),
        ("{}", "does not describe a checkpoint"),
    ],
)
def test_invalid_run_json_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / layout.RUN_FILE).write_text(text)
    with pytest.raises(ConfigError, match=reason):
        layout.read_run_json(tmp_path)


def test_missing_run_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        layout.read_run_json(tmp_path)


def test_later_steps_are_set_aside_without_loss(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        write_step(tmp_path, step)
    write_step(tmp_path, 12, complete=False)
    moved = layout.set_later_aside(tmp_path, 5)
    assert [path.name for path in moved] == ["step_0000010", "step_0000015"]
    assert layout.list_steps(tmp_path) == [5]
    assert json.loads((tmp_path / layout.LATEST_FILE).read_text())["step"] == 5
    write_step(tmp_path, 10)
    assert [path.name for path in layout.set_later_aside(tmp_path, 5)] == ["step_0000010.2"]
    assert layout.read_run_json(layout.resolve_checkpoint(tmp_path / layout.SET_ASIDE_FOLDER, 15))["step"] == 15
