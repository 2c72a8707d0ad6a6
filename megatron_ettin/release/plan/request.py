"""A release as it was asked for: which checkpoints, made into what, uploaded where."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_ettin.cli import positive
from megatron_ettin.convert.options import ExportOptions, add_model_flags, check_license
from megatron_ettin.errors import ConfigError
from megatron_ettin.release.plan.layout import ReleaseFolder
from megatron_ettin.release.plan.revisions import Revision, find_revisions
from megatron_ettin.release.plan.targets import PushTarget, push_plan


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


def add_release_flags(parser: argparse.ArgumentParser) -> None:
    """Add what a release can be asked to be."""
    add = parser.add_argument
    add("--load", required=True, type=Path, nargs="+", metavar="RUN", help="--save folders, any order")
    add("--save", required=True, type=Path, metavar="DIR", help="the release folder")
    add_model_flags(parser)
    add("--raw", action="store_true", help="add the distributed checkpoints as they are")
    add("--training-order", type=Path, nargs="+", default=[], metavar="DIR", help="parquet; else RUN/training_order")
    add("--push-to-hub", default="", metavar="ORG/NAME", help="upload, a branch for each revision")
    add("--private", action="store_true", help="new repositories are private")
    add("--workers", type=positive, default=2, metavar="N", help="checkpoints converted at a time")
    add("--no-check", action="store_true", help="do not reload and compare")
    add("--overwrite", action="store_true", help="remake what was made otherwise or from others")
    add("--dry-run", action="store_true", help="list what would be made and uploaded")


def request_of(flags: argparse.Namespace) -> ReleaseRequest:
    """Return what was asked for; nothing is written.

    Raises:
        ConfigError: something is wrong with what was given.
    """
    repository = flags.push_to_hub
    options = ExportOptions(flags.dtype or "", flags.relabel, flags.base_only, flags.license, repository or "PATH")
    orders, push = flags.training_order, bool(repository)
    return request_release(flags.load, flags.save, options, training_orders=orders, raw=flags.raw, push=push)


TRAINING_ORDER_FOLDER = "training_order"
"""Where a run keeps its exported training order, when nothing else is said."""

_SUFFIX = ".parquet"


def find_training_orders(runs: Sequence[Path], given: Sequence[Path]) -> dict[str, Path]:
    """Return folders with a training order by the name they get in the release.

    Args:
        runs: ``--save`` folders; one that was exported into ``training_order/`` there is found.
        given: folders that the user named instead.

    Raises:
        ConfigError: a given folder holds no parquet files, or two have one name.
    """
    if not given:
        inside = {run.resolve().name: run / TRAINING_ORDER_FOLDER for run in runs}
        return {name: path for name, path in inside.items() if _holds_order(path)}
    found: dict[str, Path] = {}
    for path in given:
        if not _holds_order(path):
            raise ConfigError(f"--training-order {path}: holds no {_SUFFIX} files")
        if found.setdefault(path.resolve().name, path) != path:
            raise ConfigError(f"--training-order {path}: another folder of this name was given too")
    return found


def _holds_order(path: Path) -> bool:
    return any(path.rglob(f"*{_SUFFIX}"))
