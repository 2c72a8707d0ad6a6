"""A release as it was asked for: which checkpoints, made into what, uploaded where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_ettin.convert.options import ExportOptions, check_license
from megatron_ettin.release.layout import ReleaseFolder
from megatron_ettin.release.orders import find_training_orders
from megatron_ettin.release.revisions import Revision, find_revisions
from megatron_ettin.release.targets import PushTarget, push_plan


@dataclass(frozen=True)
class ReleaseRequest:
    """Everything that a release depends on. Nothing is written and no weight is read to know it."""

    folder: ReleaseFolder
    revisions: tuple[Revision, ...]
    """In the order of training."""
    options: ExportOptions
    training_orders: Mapping[str, Path]
    """Folders of parquet files by the name they get in the release."""
    raw: bool
    """Add the distributed checkpoints as they are."""
    targets: tuple[PushTarget, ...]
    """Uploads in their order; none without a repository."""


def request_release(
    runs: Sequence[Path],
    save: Path,
    options: ExportOptions,
    *,
    training_orders: Sequence[Path] = (),
    raw: bool = False,
    push: bool = False,
) -> ReleaseRequest:
    """Find out what a release will hold.

    Args:
        runs: ``--save`` folders of the model's phases.
        save: the release folder.
        options: what every model is to be.
        training_orders: folders of an exported training order; without them those that the runs hold.
        raw: add the distributed checkpoints.
        push: upload to ``options.repository``.

    Raises:
        ConfigError: something is wrong with what was given.
    """
    check_license(options.license)
    folder, revisions = ReleaseFolder(save), find_revisions(runs)
    orders = find_training_orders(runs, training_orders)
    targets = push_plan(folder, revisions, options.repository, raw=raw, training_order=bool(orders)) if push else ()
    return ReleaseRequest(folder, revisions, options, orders, raw, targets)
