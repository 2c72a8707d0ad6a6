"""Results on disk: written atomically, and reused while everything they depend on is unchanged."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.models.subject import Subject
from megatron_ettin.evaluation.results import (
    ITEMS_FOLDER,
    LOCAL,
    MODEL_FILE,
    PARTS_FOLDER,
    TRAINED_FOLDER,
    TaskResult,
    items_as_json,
    read_items,
    read_json,
)
from megatron_ettin.files import locked, write_json_atomic

_BASIS_FILE = "basis.json"
_UNSAFE = re.compile(r"[^\w.-]+")


class ResultStore:
    """The results of one model in one suite."""

    def __init__(self, output: Path, subject: Subject, suite: str, versions: Mapping[str, str]) -> None:
        """Open a model's folder, or create it.

        Args:
            output: folder of all results.
            subject: the model.
            suite: name of the suite.
            versions: versions of the libraries that compute the results.

        Raises:
            ConfigError: the folder contains results of another model with the same name.
        """
        self._subject, self._suite, self._versions = subject, suite, dict(versions)
        self._folder = output / subject.name
        self._path = self._folder / f"{suite}.json"
        self._lock = self._folder / ".lock"
        """Excludes other processes that write results of the same model."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with locked(self._lock):
            _write_model_file(self._folder / MODEL_FILE, subject)

    def finished(self, task: str, settings: Mapping[str, Any]) -> TaskResult | None:
        """Return the stored result for exactly these settings and weights, or None."""
        entry = self._read()["tasks"].get(task)
        if entry is None or entry["model_checksum"] != self._subject.checksum or entry["settings"] != as_json(settings):
            return None
        return TaskResult.from_summary(entry, read_items(self._folder, self._suite, task))

    def save(
        self, task: str, settings: Mapping[str, Any], result: TaskResult, seconds: float, *, is_local: bool
    ) -> None:
        """Write the result of a finished task and delete its parts."""
        items = self._folder / ITEMS_FOLDER / self._suite / f"{task}.json"
        with locked(self._lock):
            items.parent.mkdir(parents=True, exist_ok=True)
            # Items are written first, so that every result in SUITE.json has its items.
            write_json_atomic(items, items_as_json(result))
            content = self._read()
            content["tasks"][task] = {
                **result.summary(),
                "settings": as_json(settings),
                LOCAL: is_local,
                "model_checksum": self._subject.checksum,
                "versions": self._versions,
                "seconds": round(seconds, 1),
            }
            write_json_atomic(self._path, content)
        shutil.rmtree(self._parts_folder(task), ignore_errors=True)

    def parts(self, task: str, settings: Mapping[str, Any]) -> PartFiles:
        """Return the completed parts of an unfinished task; parts of other settings or weights are deleted."""
        basis = {"settings": as_json(settings), "model_checksum": self._subject.checksum, "versions": self._versions}
        return PartFiles(self._parts_folder(task), basis)

    def trained_folder(self) -> Path:
        """Return the folder for the suite's artefacts that are not JSON."""
        folder = self._folder / TRAINED_FOLDER / self._suite
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _parts_folder(self, task: str) -> Path:
        return self._folder / PARTS_FOLDER / self._suite / task

    def _read(self) -> dict[str, Any]:
        empty: dict[str, Any] = {"tasks": {}}
        content = read_json(self._path) if self._path.is_file() else empty
        return {"suite": self._suite, "model": self._subject.as_dict(), "tasks": content["tasks"]}


class PartFiles:
    """Completed parts of one task, stored as one JSON file each. Implements ``PartCache``."""

    def __init__(self, folder: Path, basis: Mapping[str, Any]) -> None:
        """Open the folder, and empty it if its parts were computed on another basis."""
        self._folder = folder
        basis_file = folder / _BASIS_FILE
        if not basis_file.is_file() or read_json(basis_file) != basis:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_json_atomic(basis_file, basis)

    def get_or_compute(self, part: str, compute: Callable[[], Any]) -> Any:
        """Return the stored value of ``part``, or the result of ``compute``, which must be JSON and is stored."""
        path = self._folder / f"{_file_name(part)}.json"
        if not path.is_file():
            write_json_atomic(path, {"part": part, "value": compute()})
        return read_json(path)["value"]


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as they are read back from a file: tuples become lists, keys strings."""
    parsed: dict[str, Any] = json.loads(json.dumps(settings))
    return parsed


def _write_model_file(path: Path, subject: Subject) -> None:
    """Record the model that a folder's results belong to.

    A model may have been trained further in place, or moved; if both folder and checksum differ it is another model.
    """
    description = subject.as_dict()
    stored = read_json(path) if path.is_file() else None
    if stored == description:
        return
    if stored and stored["folder"] != description["folder"] and stored["checksum"] != description["checksum"]:
        raise ConfigError(
            f"--model {subject.given}: {path.parent} contains results of {stored['given']}, another model of the same "
            "name; rename one, or give another --output"
        )
    write_json_atomic(path, description)


def _file_name(part: str) -> str:
    """Return a readable and unique file name for a part."""
    digest = hashlib.sha256(part.encode()).hexdigest()[:8]
    return f"{_UNSAFE.sub('_', part)[:80]}-{digest}"
