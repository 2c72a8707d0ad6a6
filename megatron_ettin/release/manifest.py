"""The manifest of a finished revision: its checkpoint, its options, and the checksum of each of its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.checkpoint.folder.integrity import MARKER_FILE
from megatron_ettin.checkpoint.folder.layout import RUN_FILE
from megatron_ettin.files import file_sha256, write_json_atomic
from megatron_ettin.release.plan.revisions import Revision

_WEIGHTS_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class FileRecord:
    """Size and checksum of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class RevisionManifest:
    """One finished revision, as manifests/NAME.json stores it."""

    revision: Mapping[str, Any]
    """The fields of :class:`Revision` without the checkpoint's path."""
    source: str
    """Fingerprint of the checkpoint."""
    options: Mapping[str, Any]
    """The fields of ``ExportOptions``."""
    num_parameters: int
    files: Mapping[str, FileRecord]
    """By path in the model folder."""

    @property
    def checksum(self) -> str:
        """SHA-256 of the weight file; of several files, that of their list as ``sha256sum`` prints it."""
        weights = {name: file.sha256 for name, file in sorted(self.files.items()) if name.endswith(_WEIGHTS_SUFFIX)}
        if len(weights) == 1:
            return next(iter(weights.values()))
        return hashlib.sha256("".join(f"{sha}  {name}\n" for name, sha in weights.items()).encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Write the manifest as JSON, atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(path, asdict(self))


def read_manifest(path: Path) -> RevisionManifest | None:
    """Return a manifest, or None if it is missing or damaged."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        files = {name: FileRecord(**file) for name, file in fields.pop("files").items()}
        return RevisionManifest(files=files, **fields)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def revision_facts(revision: Revision) -> dict[str, Any]:
    """Return the fields of a revision that a manifest stores."""
    facts = asdict(revision)
    del facts["checkpoint"]
    return facts


def fingerprint(checkpoint: Path) -> str:
    """Return a SHA-256 that identifies a checkpoint: of its run.json and of the marker with its file sizes."""
    digest = hashlib.sha256()
    for name in (RUN_FILE, MARKER_FILE):
        digest.update((checkpoint / name).read_bytes())
    return digest.hexdigest()


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Return size and checksum of every file below a folder by its relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): FileRecord(path.stat().st_size, file_sha256(path)) for path in paths}
