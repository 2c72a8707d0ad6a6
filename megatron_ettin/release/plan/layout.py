"""Paths of a release folder, and the branch of the Hub that each of its parts is uploaded to.

SAVE/release.json            the options of the release; a folder without it is never changed
SAVE/lock                    held by the one process that works on the release
SAVE/revisions/step100/      one model folder for each checkpoint
SAVE/manifests/step100.json  written when that folder is complete: its checkpoint, and every file's checksum
SAVE/main/                   the last revision, with files that describe all of them
SAVE/raw/step100/            the distributed checkpoint as it was saved (--raw)
SAVE/training_order/         the tokens in the order of training, where the run exported them
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from megatron_ettin.errors import ConfigError
from megatron_ettin.files import locked
from megatron_ettin.release.plan.revisions import Revision

RELEASE_FILE = "release.json"
CHECKPOINTS_FILE = "CHECKPOINTS.csv"
TRAINING_ORDER_FILE = "training_order.json"

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class ReleaseFolder:
    """Paths of one release."""

    root: Path

    @property
    def about(self) -> Path:
        """The file that marks the folder as a release."""
        return self.root / RELEASE_FILE

    @property
    def main(self) -> Path:
        """The content of the main branch."""
        return self.root / "main"

    @property
    def raw(self) -> Path:
        """Distributed checkpoints, one folder for each revision."""
        return self.root / "raw"

    @property
    def training_order(self) -> Path:
        """Tokens in the order of training."""
        return self.root / "training_order"

    def revision(self, name: str) -> Path:
        """The model folder of a revision."""
        return self.root / "revisions" / name

    def manifest(self, name: str) -> Path:
        """The manifest of a revision."""
        return self.root / "manifests" / f"{name}.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process.

        Raises:
            ConfigError: another process holds it.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.root / "lock", wait=False))
            except BlockingIOError as error:
                raise ConfigError(f"--save {self.root}: another process is writing this release") from error
            yield


@dataclass(frozen=True)
class UploadTarget:
    """A folder, and the place on the Hub that its files are uploaded to."""

    folder: Path
    repository: str
    branch: str = "main"
    repo_type: str = "model"
    prefix: str = ""
    """Folder in the repository, with its trailing slash; empty is the top."""

    def files(self) -> dict[str, Path]:
        """Return the files by their path in the repository."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {self.prefix + path.relative_to(self.folder).as_posix(): path for path in paths}

    def covers(self, path: str) -> bool:
        """Whether an upload to this target may change a path of the repository."""
        return path.startswith(self.prefix)

    @property
    def message(self) -> str:
        """Title of the commit."""
        return f"Release {self.prefix.rstrip('/') or self.branch}"

    def __str__(self) -> str:
        """Name the target as the Hub's addresses do."""
        kind = "" if self.repo_type == "model" else f"{self.repo_type}s/"
        return f"{kind}{self.repository}@{self.branch}" + (f":{self.prefix}" if self.prefix else "")


def upload_targets(
    folder: ReleaseFolder, revisions: Sequence[Revision], repository: str, *, raw: bool, training_order: bool
) -> tuple[UploadTarget, ...]:
    """Return all uploads in their order: the model's revisions, its main branch, then the two datasets.

    Raises:
        ConfigError: the repository's name is not of the form ORG/NAME.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise ConfigError(f"--push-to-hub {repository}: must be ORG/NAME")
    models = [UploadTarget(folder.revision(r.name), repository, branch=r.name) for r in revisions]
    targets = [*models, UploadTarget(folder.main, repository)]
    if raw:
        name = f"{repository}-checkpoints"
        targets += [
            UploadTarget(folder.raw / r.name, name, repo_type="dataset", prefix=f"{r.name}/") for r in revisions
        ]
    if training_order:
        targets.append(UploadTarget(folder.training_order, f"{repository}-data-order", repo_type="dataset"))
    return tuple(targets)
