"""The flight recorder: its settings, and the records that it writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from megatron_ettin.runtime.health.flight_recorder import record_collectives, recorder_settings, write_records
from tests.helpers.runs import tiny_run

NAMES = (
    "TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE", "TORCH_NCCL_DUMP_ON_TIMEOUT", "TORCH_FR_DUMP_TEMP_FILE",
    "TORCH_NCCL_DEBUG_INFO_TEMP_FILE",
)  # fmt: skip


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that monkeypatch restores it
        monkeypatch.delenv(name)


def test_records_are_written_to_the_save_folder(tmp_path: Path) -> None:
    record_collectives(tiny_run("mlm", save=str(tmp_path / "run")))
    prefix = f"{tmp_path}/run/nccl_trace/rank_"
    assert {name: os.environ[name] for name in NAMES} == {
        "TORCH_FR_BUFFER_SIZE": "2000", "TORCH_NCCL_TRACE_BUFFER_SIZE": "2000", "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
        "TORCH_FR_DUMP_TEMP_FILE": prefix, "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": prefix,
    }  # fmt: skip
    assert (tmp_path / "run" / "nccl_trace").is_dir()


def test_settings_of_the_user_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FR_BUFFER_SIZE", "0")
    record_collectives(tiny_run("mlm", save=str(tmp_path)))
    assert os.environ["TORCH_FR_BUFFER_SIZE"] == "0"


def test_without_a_save_folder_torch_chooses_the_path() -> None:
    assert "TORCH_NCCL_DEBUG_INFO_TEMP_FILE" not in recorder_settings(tiny_run("mlm"))


def test_dump_of_nccl_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    library: Any = torch._C._distributed_c10d
    monkeypatch.setattr(library, "_dump_nccl_trace", lambda: b"records", raising=False)
    assert write_records(3) == ""
    monkeypatch.setenv("TORCH_NCCL_DEBUG_INFO_TEMP_FILE", str(tmp_path / "rank_"))
    assert write_records(3) == str(tmp_path / "rank_3")
    assert (tmp_path / "rank_3").read_bytes() == b"records"
    monkeypatch.setenv("TORCH_NCCL_DEBUG_INFO_TEMP_FILE", str(tmp_path / "nowhere" / "rank_"))
    assert write_records(3) == ""
