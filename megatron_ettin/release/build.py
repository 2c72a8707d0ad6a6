"""Build a release from its runs: revisions, main branch, raw checkpoints and training order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_ettin.checkpoint.folder.integrity import MARKER_FILE
from megatron_ettin.convert.export import CARD_FILE
from megatron_ettin.errors import ConfigError
from megatron_ettin.files import link_tree, new_folder, write_json_atomic
from megatron_ettin.release.convert import Log, convert_revisions
from megatron_ettin.release.main_folder import write_main_folder
from megatron_ettin.release.manifest import FileRecord, RevisionManifest, fingerprint, read_manifest, record_files
from megatron_ettin.release.plan.layout import ReleaseFolder
from megatron_ettin.release.plan.request import ReleaseRequest
from megatron_ettin.release.plan.revisions import Revision

_FORMAT_VERSION = 1
_TRAINING_ORDER_CARD = """---
license: {license}
---

# Training order

The tokens that a model was pretrained on, in the order in which it saw them, one folder for each phase. Made with
megatron_ettin; `training_order.json` in the model's repository lists every file with its SHA-256.
"""


def build_release(request: ReleaseRequest, *, workers: int, check: bool, overwrite: bool, log: Log) -> None:
    """Build or complete a release; revisions that an earlier run finished are verified and kept.

    Raises:
        ConfigError: the folder is not this release, a checkpoint is damaged, or writing fails.
        RevisionFailed: a converted model's logits differ from its checkpoint's.
    """
    folder, revisions, options = request.folder, request.revisions, request.options
    if not overwrite:
        _check_same_release(request)
    elif not _is_empty(folder.root):
        _read_options(folder)
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        with folder.locked():
            write_json_atomic(folder.about, {"format_version": _FORMAT_VERSION, "options": asdict(options)})
            convert_revisions(revisions, folder, options, workers=workers, check=check, log=log)
            if request.raw:
                _add_raw_checkpoints(folder, revisions)
            order = _add_training_order(folder, request.training_orders, license=options.license)
            write_main_folder(folder, [(r, _manifest(folder, r)) for r in revisions], options, order)
    except OSError as error:
        raise ConfigError(f"--save {folder.root}: {error.strerror or error}") from error


def _manifest(folder: ReleaseFolder, revision: Revision) -> RevisionManifest:
    manifest = read_manifest(folder.manifest(revision.name))
    assert manifest is not None, revision.name
    return manifest


def _check_same_release(request: ReleaseRequest) -> None:
    """Reject a folder with other files, other options, or other checkpoints under the names of these revisions."""
    folder, root = request.folder, request.folder.root
    if _is_empty(root):
        return
    previous, wanted = _read_options(folder), asdict(request.options)
    changed = next((name for name in wanted if previous.get(name) != wanted[name]), None)
    if changed is not None:
        difference = f"{changed} {previous.get(changed)!r}, now {wanted[changed]!r}"
        raise ConfigError(f"--save {root}: contains a release made with {difference}; --overwrite rebuilds it")
    for revision in request.revisions:
        manifest = read_manifest(folder.manifest(revision.name))
        if manifest is not None and manifest.source != fingerprint(revision.checkpoint):
            difference = f"{revision.name} of a checkpoint other than {revision.checkpoint}"
            raise ConfigError(f"--save {root}: contains {difference}; --overwrite rebuilds it")


def _is_empty(root: Path) -> bool:
    return not root.exists() or (root.is_dir() and not any(root.iterdir()))


def _read_options(folder: ReleaseFolder) -> Mapping[str, Any]:
    """Return the options that a release was made with.

    Raises:
        ConfigError: the folder is not a release.
    """
    try:
        options = json.loads(folder.about.read_text(encoding="utf-8"))["options"]
    except (OSError, ValueError, KeyError, TypeError):
        options = None
    if not isinstance(options, dict):
        raise ConfigError(f"--save {folder.root}: exists and is not a release; choose a new folder")
    return options


def _add_raw_checkpoints(folder: ReleaseFolder, revisions: Sequence[Revision]) -> None:
    """Link every distributed checkpoint that the release does not contain yet."""
    for revision in revisions:
        target = folder.raw / revision.name
        if not (target / MARKER_FILE).is_file():
            with new_folder(target, overwrite=False, known_by=MARKER_FILE) as partial:
                link_tree(revision.checkpoint, partial)


def _add_training_order(folder: ReleaseFolder, orders: Mapping[str, Path], *, license: str) -> dict[str, FileRecord]:
    """Link the training order and return its files by path; {} if no run has exported one."""
    if not orders:
        return {}
    with new_folder(folder.training_order, overwrite=True, known_by=CARD_FILE) as partial:
        (partial / CARD_FILE).write_text(_TRAINING_ORDER_CARD.format(license=license), encoding="utf-8")
        for name, path in orders.items():
            (partial / name).mkdir()
            link_tree(path, partial / name)
    return {name: file for name, file in record_files(folder.training_order).items() if name != CARD_FILE}
