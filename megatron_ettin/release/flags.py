"""Flags of a release, and the request that they make."""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_ettin.config.tool_cli import positive
from megatron_ettin.convert.model_flags import add_model_flags
from megatron_ettin.convert.options import ExportOptions
from megatron_ettin.release.request import ReleaseRequest, request_release


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
