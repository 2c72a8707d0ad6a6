"""Metrics in the files of an offline Weights & Biases run, read back as its messages."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from megatron_ettin.config.run import RunConfig
from megatron_ettin.train.telemetry.metrics import MetricsFiles, MetricsLog, open_wandb

pytestmark = pytest.mark.slow


def write(save: Path, steps: dict[int, float]) -> str:
    """Log losses as a launch does, and return the run's id."""
    config = RunConfig().with_values({"save": str(save), "wandb_project": "pairs", "lr": 1e-3})
    opened: Any = open_wandb(config)
    log = MetricsLog(MetricsFiles.of(str(save), ""), min(steps), opened)
    for step, loss in steps.items():
        log.write({"step": step, "loss": loss})
    log.close()
    return str(opened.id)


def messages(file: Path) -> Iterator[bytes]:
    """Yield the records of a file in LevelDB's log format: blocks of 32 KiB, chunks with checksum, length and type."""
    content, place, message = file.read_bytes(), 7, b""  # after the file header
    while place + 7 <= len(content):
        if 2**15 - place % 2**15 < 7:
            place += 2**15 - place % 2**15  # no chunk starts this close to the end of a block
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        message += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a complete record, or its last chunk
            yield message
            message = b""


def stored(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the history and the config in the file of an offline run."""
    from wandb.proto.wandb_internal_pb2 import Record

    [file] = folder.glob("*.wandb")
    history: list[dict[str, Any]] = []
    config: dict[str, Any] = {}
    for message in messages(file):
        record = Record()
        record.ParseFromString(message)
        if record.HasField("run"):
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update if item.key}
        if record.HasField("history"):
            items = record.history.item
            history.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in items})
    return history, config


def test_resumed_run_has_the_same_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    first = write(tmp_path / "run", {1: 2.5, 2: float("nan")})
    again = write(tmp_path / "run", {3: 2.0})
    assert again == first != write(tmp_path / "other", {1: 1.0})
    parts = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{first}"))
    (original, config), *later = map(stored, parts)
    assert [(line["step"], line["loss"]) for line in original] == [(1, 2.5), (2, None)]
    assert config["optimizer"]["lr"] == 1e-3
    for history, _ in later:
        assert [(line["step"], line["loss"]) for line in history] == [(3, 2.0)]


WITHOUT_A_KEY = """
from megatron_ettin.errors import ConfigError
from megatron_ettin.config.run import RunConfig
from megatron_ettin.train.telemetry.metrics import open_wandb
try:
    open_wandb(RunConfig().with_values({"save": "run", "wandb_project": "pairs"}))
except ConfigError as error:
    print("refused:", error)
"""


def test_missing_api_key_is_one_line(tmp_path: Path) -> None:
    """Runs in its own process, since the package keeps the mode of its first use."""
    pytest.importorskip("wandb")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_KEY],
        cwd=tmp_path,
        env={**environment, "HOME": str(tmp_path)},  # without a stored key
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    [line] = [line for line in done.stdout.splitlines() if line.startswith("refused: ")]
    assert line.startswith("refused: --wandb-project pairs: No API key configured.")
