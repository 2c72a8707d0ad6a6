"""A release from its runs: revisions, main, and what is released beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from megatron_ettin.checkpoint.layout import write_json_atomic
from megatron_ettin.config.errors import ConfigError
from megatron_ettin.release.conversion import Note, convert_revisions
from megatron_ettin.release.extras import add_raw_checkpoints, add_training_order
from megatron_ettin.release.layout import ReleaseFolder
from megatron_ettin.release.main_folder import write_main_folder
from megatron_ettin.release.manifest import Manifest, fingerprint, read_manifest
from megatron_ettin.release.request import ReleaseRequest
from megatron_ettin.release.revisions import Revision

_FORMAT_VERSION = 1


def build_release(request: ReleaseRequest, *, workers: int, check: bool, overwrite: bool, note: Note) -> None:
    """Make or complete a release; what a former attempt finished is verified and kept.

    Raises:
        ConfigError: the folder is no release or one made otherwise, a checkpoint is wrong, or the disk refuses.
        RevisionFailed: a converted model computes something else than its checkpoint.
    """
    folder, revisions, options = request.folder, request.revisions, request.options
    _refuse_another(request, overwrite=overwrite)
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        with folder.locked():
            write_json_atomic(folder.about, {"format_version": _FORMAT_VERSION, "options": asdict(options)})
            convert_revisions(revisions, folder, options, workers=workers, check=check, note=note)
            if request.raw:
                add_raw_checkpoints(folder, revisions)
            order = add_training_order(folder, request.training_orders, license=options.license)
            write_main_folder(folder, [(r, _manifest(folder, r)) for r in revisions], options, order)
    except OSError as error:
        raise ConfigError(f"--save {folder.root}: {error.strerror or error}") from error


def _manifest(folder: ReleaseFolder, revision: Revision) -> Manifest:
    manifest = read_manifest(folder.manifest(revision.name))
    assert manifest is not None, revision.name
    return manifest


def _refuse_another(request: ReleaseRequest, *, overwrite: bool) -> None:
    """Refuse a folder that holds something else: other files, other options, other checkpoints under a revision."""
    folder, root = request.folder, request.folder.root
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return
    former = _former_options(folder)
    if former is None:
        raise ConfigError(f"--save {root}: exists and is no release; choose a new folder")
    if overwrite:
        return
    wanted = asdict(request.options)
    changed = [name for name in wanted if former.get(name) != wanted[name]]
    if changed:
        told = f"{changed[0]} {former.get(changed[0])!r}, now {wanted[changed[0]]!r}"
        raise ConfigError(f"--save {root}: holds a release made with {told}; --overwrite makes it anew")
    for revision in request.revisions:
        manifest = read_manifest(folder.manifest(revision.name))
        if manifest is not None and manifest.source != fingerprint(revision.checkpoint):
            told = f"{revision.name} of another checkpoint than {revision.checkpoint}"
            raise ConfigError(f"--save {root}: holds {told}; --overwrite makes it anew")


def _former_options(folder: ReleaseFolder) -> Mapping[str, Any] | None:
    try:
        options = json.loads(folder.about.read_text(encoding="utf-8"))["options"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return options if isinstance(options, dict) else None
