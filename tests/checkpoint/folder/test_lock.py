"""The lock on SAVE against a real second process."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_ettin.checkpoint.folder.layout import LOCK_FILE
from megatron_ettin.checkpoint.folder.lock import SaveLock
from megatron_ettin.errors import ConfigError

HOLD = """
import sys, time
from pathlib import Path
from megatron_ettin.checkpoint.folder.lock import SaveLock
lock = SaveLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def hold_elsewhere(save: Path) -> subprocess.Popen[str]:
    """Start a process that holds the lock; return once it does."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(save)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_second_run_is_refused_in_one_line_naming_the_first(tmp_path: Path) -> None:
    process = hold_elsewhere(tmp_path)
    try:
        with pytest.raises(ConfigError) as caught:
            SaveLock(tmp_path)
    finally:
        process.kill()
        process.wait()
    message = str(caught.value)
    assert message.startswith(f"--save {tmp_path}:")
    assert f"process {process.pid}" in message
    assert "\n" not in message


def test_lock_of_a_killed_process_does_not_block(tmp_path: Path) -> None:
    process = hold_elsewhere(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / LOCK_FILE).exists(), "the killed process left its file"
    SaveLock(tmp_path).release()


def test_released_lock_can_be_acquired_again(tmp_path: Path) -> None:
    with SaveLock(tmp_path / "new" / "folder"), pytest.raises(ConfigError):
        SaveLock(tmp_path / "new" / "folder")
    SaveLock(tmp_path / "new" / "folder").release()


def test_child_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A program started by the run outlives it without the lock."""
    with SaveLock(tmp_path):
        child = subprocess.Popen(["sleep", "60"])
    try:
        SaveLock(tmp_path).release()
    finally:
        child.kill()
        child.wait()


def test_folder_that_cannot_be_created_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        SaveLock(tmp_path / "file" / "save")
