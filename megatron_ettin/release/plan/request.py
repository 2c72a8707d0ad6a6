"""The request for a release: its flags, the checkpoints and options it names, and the dry run that lists them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_ettin.checkpoint.folder.layout import read_run_json
from megatron_ettin.cli import positive
from megatron_ettin.config.run import RunConfig
from megatron_ettin.convert.options import ExportOptions, add_model_flags, check_license, released_as
from megatron_ettin.convert.training_facts import short_count
from megatron_ettin.errors import ConfigError
from megatron_ettin.planning.model_size import count_parameters
from megatron_ettin.release.plan.layout import ReleaseFolder, UploadTarget, upload_targets
from megatron_ettin.release.plan.revisions import Revision, find_revisions

TRAINING_ORDER_FOLDER = "training_order"
"""Subfolder of a run where tools/export_training_order.py writes by default."""

_ORDER_SUFFIX = ".parquet"
_BYTES = {"": 4, "float32": 4, "bfloat16": 2, "float16": 2}
"""Of one parameter by ``--dtype``; checkpoints are stored in fp32."""


@dataclass(frozen=True)
class ReleaseRequest:
    """All inputs of a release; making a request writes nothing and reads no weights."""

    folder: ReleaseFolder
    revisions: tuple[Revision, ...]
    """In the order of training."""
    options: ExportOptions
    training_orders: Mapping[str, Path]
    """Folders of parquet files by their name in the release."""
    raw: bool
    """Add the distributed checkpoints unchanged."""
    targets: tuple[UploadTarget, ...]
    """Uploads in their order; empty without a repository."""


def add_release_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of tools/release.py."""
    add = parser.add_argument
    add("--load", required=True, type=Path, nargs="+", metavar="RUN", help="--save folders, any order")
    add("--save", required=True, type=Path, metavar="DIR", help="the release folder")
    add_model_flags(parser)
    add("--raw", action="store_true", help="add the distributed checkpoints unchanged")
    add("--training-order", type=Path, nargs="+", default=[], metavar="DIR", help="parquet; else RUN/training_order")
    add("--push-to-hub", default="", metavar="ORG/NAME", help="upload, a branch for each revision")
    add("--private", action="store_true", help="make new repositories private")
    add("--workers", type=positive, default=2, metavar="N", help="checkpoints converted at a time")
    add("--no-check", action="store_true", help="do not reload and compare")
    add("--overwrite", action="store_true", help="rebuild revisions made with other options or from other checkpoints")
    add("--dry-run", action="store_true", help="list the revisions and uploads, and write nothing")


def request_of(flags: argparse.Namespace) -> ReleaseRequest:
    """Return the request that the flags describe.

    Raises:
        ConfigError: a flag's value cannot be used.
    """
    repository = flags.push_to_hub
    options = ExportOptions(flags.dtype or "", flags.relabel, flags.base_only, flags.license, repository or "PATH")
    orders, push = flags.training_order, bool(repository)
    return request_release(flags.load, flags.save, options, training_orders=orders, raw=flags.raw, push=push)


def request_release(
    runs: Sequence[Path],
    save: Path,
    options: ExportOptions,
    *,
    training_orders: Sequence[Path] = (),
    raw: bool = False,
    push: bool = False,
) -> ReleaseRequest:
    """Collect the contents of a release.

    Args:
        runs: ``--save`` folders of the model's phases.
        save: the release folder.
        options: what every model is released as.
        training_orders: folders of an exported training order; by default those inside the runs.
        raw: add the distributed checkpoints.
        push: upload to ``options.repository``.

    Raises:
        ConfigError: an argument cannot be used.
    """
    check_license(options.license)
    folder, revisions = ReleaseFolder(save), find_revisions(runs)
    orders = _find_training_orders(runs, training_orders)
    targets = (
        upload_targets(folder, revisions, options.repository, raw=raw, training_order=bool(orders)) if push else ()
    )
    return ReleaseRequest(folder, revisions, options, orders, raw, targets)


def _find_training_orders(runs: Sequence[Path], given: Sequence[Path]) -> dict[str, Path]:
    """Return folders with a training order by their name in the release: the given ones, else those inside the runs.

    Raises:
        ConfigError: a given folder has no parquet files, or two have the same name.
    """
    if not given:
        exported = {run.resolve().name: run / TRAINING_ORDER_FOLDER for run in runs}
        return {name: path for name, path in exported.items() if _has_order(path)}
    orders: dict[str, Path] = {}
    for path in given:
        if not _has_order(path):
            raise ConfigError(f"--training-order {path}: has no {_ORDER_SUFFIX} files")
        if orders.setdefault(path.resolve().name, path) != path:
            raise ConfigError(f"--training-order {path}: another folder of this name was given too")
    return orders


def _has_order(path: Path) -> bool:
    return any(path.rglob(f"*{_ORDER_SUFFIX}"))


def plan_lines(request: ReleaseRequest) -> list[str]:
    """Return the dry run: a table of the revisions with their sizes, then what is added and uploaded."""
    head = f"{'revision':<14}{'phase':<10}{'step':>10}{'tokens':>10}{'MB':>12}  state"
    lines = [head, *(_plan_row(request, revision) for revision in request.revisions)]
    lines.append(f"main = {request.revisions[-1].name}, with CHECKPOINTS.csv, configs and model card")
    lines += ["raw: the distributed checkpoint of each"] if request.raw else []
    lines += [f"training order: {path}" for path in request.training_orders.values()]
    lines += [f"to the Hub: {target}" for target in request.targets]
    return lines


def _plan_row(request: ReleaseRequest, revision: Revision) -> str:
    run = read_run_json(revision.checkpoint)
    counts = count_parameters(RunConfig.from_dict(run["config"]).model)
    _, base_only = released_as(run["objective"], request.options)
    removed = counts.head + counts.output_bias + counts.output_matrix if base_only else 0
    megabytes = (counts.total - removed) * _BYTES[request.options.dtype] / 1e6
    state = "finished before, to be verified" if request.folder.manifest(revision.name).is_file() else "to convert"
    tokens = short_count(revision.tokens)
    return f"{revision.name:<14}{revision.phase:<10}{revision.step:>10}{tokens:>10}{megabytes:>12,.1f}  {state}"
