"""Which branch of which repository each folder of a release goes to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_ettin.errors import ConfigError
from megatron_ettin.release.plan.layout import ReleaseFolder
from megatron_ettin.release.plan.revisions import Revision

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class PushTarget:
    """A folder, and where its files go."""

    folder: Path
    repository: str
    branch: str = "main"
    repo_type: str = "model"
    prefix: str = ""
    """Folder in the repository, with its slash; empty is the top."""

    def files(self) -> dict[str, Path]:
        """Return the files by their path in the repository."""
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {self.prefix + path.relative_to(self.folder).as_posix(): path for path in found}

    def covers(self, path: str) -> bool:
        """Whether a path in the repository is this target's to change."""
        return path.startswith(self.prefix)

    @property
    def message(self) -> str:
        """Title of the commit."""
        return f"Release {self.prefix.rstrip('/') or self.branch}"

    def __str__(self) -> str:
        """Name the place as the Hub's addresses do."""
        kind = "" if self.repo_type == "model" else f"{self.repo_type}s/"
        return f"{kind}{self.repository}@{self.branch}" + (f":{self.prefix}" if self.prefix else "")


def push_plan(
    folder: ReleaseFolder, revisions: Sequence[Revision], repository: str, *, raw: bool, training_order: bool
) -> tuple[PushTarget, ...]:
    """Return all uploads in their order: revisions first, main last of the model's, then the two datasets."""
    check_repository(repository)
    models = [PushTarget(folder.revision(r.name), repository, branch=r.name) for r in revisions]
    targets = [*models, PushTarget(folder.main, repository)]
    if raw:
        name = f"{repository}-checkpoints"
        targets += [PushTarget(folder.raw / r.name, name, repo_type="dataset", prefix=f"{r.name}/") for r in revisions]
    if training_order:
        targets.append(PushTarget(folder.training_order, f"{repository}-data-order", repo_type="dataset"))
    return tuple(targets)


def check_repository(repository: str) -> None:
    """Refuse what cannot be the name of a repository.

    Raises:
        ConfigError: it is not of the form ORG/NAME.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise ConfigError(f"--push-to-hub {repository}: must be ORG/NAME")
