"""Results on disk: written whole or not at all, kept as long as what they depend on is the same."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
        """Open, or begin, a model's folder.

        Args:
            output: the folder of all results.
            subject: the model.
            suite: the suite's name.
            versions: of the libraries that results are computed with.

        Raises:
            ConfigError: the folder holds results of another model of the same name.
        """
        self._subject, self._suite, self._versions = subject, suite, dict(versions)
        self._folder = output / subject.name
        self._path = self._folder / f"{suite}.json"
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            _claim(self._folder / MODEL_FILE, subject)

    def finished(self, task: str, settings: Mapping[str, Any]) -> TaskResult | None:
        """Return a result that was computed with these very settings on these very weights, if there is one."""
        told = self._read()["tasks"].get(task)
        if told is None or told["model_checksum"] != self._subject.checksum or told["settings"] != as_json(settings):
            return None
        return TaskResult.from_summary(told, read_items(self._folder, self._suite, task))

    def keep(
        self, task: str, settings: Mapping[str, Any], result: TaskResult, seconds: float, *, is_local: bool
    ) -> None:
        """Write a finished task's result and forget its parts."""
        items = self._folder / ITEMS_FOLDER / self._suite / f"{task}.json"
        with self._locked():
            items.parent.mkdir(parents=True, exist_ok=True)
            # Items come first: a result in SUITE.json always has those that belong to it.
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
        """Return the parts of a task that is being computed; those of other settings or weights are forgotten."""
        basis = {"settings": as_json(settings), "model_checksum": self._subject.checksum, "versions": self._versions}
        return PartFiles(self._parts_folder(task), basis)

    def trained_folder(self) -> Path:
        """Return where the suite may keep what is no JSON."""
        folder = self._folder / TRAINED_FOLDER / self._suite
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _parts_folder(self, task: str) -> Path:
        return self._folder / PARTS_FOLDER / self._suite / task

    def _read(self) -> dict[str, Any]:
        empty: dict[str, Any] = {"tasks": {}}
        content = read_json(self._path) if self._path.is_file() else empty
        return {"suite": self._suite, "model": self._subject.as_dict(), "tasks": content["tasks"]}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep out other processes that write results of the same model."""
        with locked(self._folder / ".lock"):
            yield


class PartFiles:
    """Finished parts of one task, a JSON file each."""

    def __init__(self, folder: Path, basis: Mapping[str, Any]) -> None:
        """Open the folder; if it was filled on another basis, empty it."""
        self._folder = folder
        stamp = folder / _BASIS_FILE
        if not stamp.is_file() or read_json(stamp) != basis:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_json_atomic(stamp, basis)

    def recall(self, part: str, compute: Callable[[], Any]) -> Any:
        """Return what ``compute`` returned when ``part`` was first asked for; it must be JSON."""
        path = self._folder / f"{_file_name(part)}.json"
        if not path.is_file():
            write_json_atomic(path, {"part": part, "value": compute()})
        return read_json(path)["value"]


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as they read back from a file: tuples are lists, keys are strings."""
    told: dict[str, Any] = json.loads(json.dumps(settings))
    return told


def _claim(path: Path, subject: Subject) -> None:
    """Write which model a folder's results are of.

    The same source may have been trained on, and a model may have moved; both at once is another model.
    """
    told = subject.as_dict()
    before = read_json(path) if path.is_file() else told
    if before == told and path.is_file():
        return
    if before["folder"] != told["folder"] and before["checksum"] != told["checksum"]:
        raise ConfigError(
            f"--model {subject.given}: {path.parent} holds results of {before['given']}, another model of the same "
            "name; rename one, or give another --output"
        )
    write_json_atomic(path, told)


def _file_name(part: str) -> str:
    """Return a file's name for a part: readable, short, and another one for every part."""
    digest = hashlib.sha256(part.encode()).hexdigest()[:8]
    return f"{_UNSAFE.sub('_', part)[:80]}-{digest}"
