"""A release from its runs: revisions, main, and what is released beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_ettin.checkpoint.folder.layout import MARKER_FILE, write_json_atomic
from megatron_ettin.errors import ConfigError
from megatron_ettin.files import link_tree, new_folder
from megatron_ettin.release.convert import Note, convert_revisions
from megatron_ettin.release.main_folder import write_main_folder
from megatron_ettin.release.manifest import FileRecord, Manifest, fingerprint, read_manifest, record_files
from megatron_ettin.release.plan.layout import ReleaseFolder
from megatron_ettin.release.plan.request import ReleaseRequest
from megatron_ettin.release.plan.revisions import Revision

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


CARD_FILE = "README.md"
_CARD = """---
license: {license}
---

# Training order

The tokens that a model was pretrained on, in the order in which it saw them, one folder for each phase. Made with
megatron_ettin; `training_order.json` in the model's repository lists every file with its SHA-256.
"""


def add_raw_checkpoints(folder: ReleaseFolder, revisions: Sequence[Revision]) -> None:
    """Put every distributed checkpoint into the release, whole; those that are there stay."""
    for revision in revisions:
        target = folder.raw / revision.name
        if (target / MARKER_FILE).is_file():
            continue
        with new_folder(target, overwrite=False, known_by=MARKER_FILE) as partial:
            link_tree(revision.checkpoint, partial)


def add_training_order(folder: ReleaseFolder, orders: Mapping[str, Path], *, license: str) -> dict[str, FileRecord]:
    """Put the training order into the release and return its files by path; {} where there is none."""
    if not orders:
        return {}
    with new_folder(folder.training_order, overwrite=True, known_by=CARD_FILE) as partial:
        (partial / CARD_FILE).write_text(_CARD.format(license=license), encoding="utf-8")
        for name, path in orders.items():
            (partial / name).mkdir()
            link_tree(path, partial / name)
    return {name: file for name, file in record_files(folder.training_order).items() if name != CARD_FILE}
