"""What can be released beside the models: distributed checkpoints as they are, and the order of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from megatron_ettin.checkpoint.layout import MARKER_FILE
from megatron_ettin.convert.new_folder import new_folder
from megatron_ettin.release.layout import ReleaseFolder
from megatron_ettin.release.links import link_tree
from megatron_ettin.release.manifest import FileRecord, record_files
from megatron_ettin.release.revisions import Revision

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
