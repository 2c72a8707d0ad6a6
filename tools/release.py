"""Release every checkpoint of a model's runs: folders for Hugging Face, a table of all, and the upload to the Hub."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_ettin.config.tool_cli import ToolParser, positive, run_tool
from megatron_ettin.convert.model_flags import add_model_flags

EXIT_CHECK_FAILED = 3


def build_parser() -> ToolParser:
    """Return the command line."""
    parser = ToolParser(
        "Convert every whole checkpoint into a revision (step N, ext N, decay N by phase; main is the last). "
        "Broken off, the same command goes on: what is finished is verified by checksum and kept."
    )
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
    return parser


def main(arguments: Sequence[str]) -> int:
    """Plan, convert, upload."""
    flags = build_parser().parse(arguments)
    from megatron_ettin.convert.options import ExportOptions
    from megatron_ettin.release.plan import plan_lines
    from megatron_ettin.release.request import request_release

    name = flags.push_to_hub
    options = ExportOptions(flags.dtype or "", flags.relabel, flags.base_only, flags.license, name or "PATH")
    request = request_release(
        flags.load, flags.save, options, training_orders=flags.training_order, raw=flags.raw, push=bool(name)
    )
    if flags.dry_run:
        print("\n".join(plan_lines(request)))
        return 0
    from megatron_ettin.release.build import build_release
    from megatron_ettin.release.conversion import RevisionFailed

    check = not flags.no_check
    try:
        build_release(request, workers=flags.workers, check=check, overwrite=flags.overwrite, note=print)
    except RevisionFailed as failure:
        sys.stderr.write(f"error: {failure}\n")
        return EXIT_CHECK_FAILED
    if request.targets:
        from megatron_ettin.release.push import push_targets

        push_targets(request.targets, private=flags.private, note=print)
    return 0


if __name__ == "__main__":
    run_tool(main)
