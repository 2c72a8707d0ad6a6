"""Where everything lies in a release folder.

SAVE/release.json            what the release is made with; a folder without it is never touched
SAVE/lock                    held by the one process that works here
SAVE/revisions/step100/      one model folder for each checkpoint
SAVE/manifests/step100.json  written when that folder is whole: what it was made from, and every file's checksum
SAVE/main/                   the last revision, and what tells of all of them
SAVE/raw/step100/            the distributed checkpoint as it was saved (--raw)
SAVE/training_order/         the tokens in the order of training, where the run exported them
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from megatron_ettin.errors import ConfigError

RELEASE_FILE = "release.json"
CHECKPOINTS_FILE = "CHECKPOINTS.csv"
TRAINING_ORDER_FILE = "training_order.json"


@dataclass(frozen=True)
class ReleaseFolder:
    """Paths of one release."""

    root: Path

    @property
    def about(self) -> Path:
        """The file that makes the folder a release."""
        return self.root / RELEASE_FILE

    @property
    def main(self) -> Path:
        """What becomes the main branch."""
        return self.root / "main"

    @property
    def raw(self) -> Path:
        """Distributed checkpoints, one folder a revision."""
        return self.root / "raw"

    @property
    def training_order(self) -> Path:
        """Tokens in the order of training."""
        return self.root / "training_order"

    @property
    def manifests(self) -> Path:
        """One file for each finished revision."""
        return self.root / "manifests"

    def revision(self, name: str) -> Path:
        """The model folder of a revision."""
        return self.root / "revisions" / name

    def manifest(self, name: str) -> Path:
        """The manifest of a revision."""
        return self.manifests / f"{name}.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process.

        Raises:
            ConfigError: another one works on it.
        """
        with (self.root / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(f"--save {self.root}: another release is at work here") from error
            yield
