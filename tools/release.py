"""Release every checkpoint of a model's runs: Hugging Face folders, a table of them, and the upload to the Hub."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from megatron_ettin.cli import ToolParser, console_script
from megatron_ettin.release.plan.request import add_release_flags, plan_lines, request_of

EXIT_CHECK_FAILED = 3


def build_parser() -> ToolParser:
    """Return the command line."""
    parser = ToolParser(
        "Convert every complete checkpoint into a revision (step N, ext N, decay N by phase; main is the last). "
        "After an interruption the same command resumes: finished revisions are verified by checksum and kept."
    )
    add_release_flags(parser)
    return parser


@console_script
def main(arguments: Sequence[str]) -> int:
    """Plan, convert, upload."""
    flags = build_parser().parse(arguments)
    request = request_of(flags)
    if flags.dry_run:
        print("\n".join(plan_lines(request)))
        return 0
    from megatron_ettin.release.build import build_release
    from megatron_ettin.release.convert import RevisionFailed

    check = not flags.no_check
    try:
        build_release(request, workers=flags.workers, check=check, overwrite=flags.overwrite, log=print)
    except RevisionFailed as failure:
        sys.stderr.write(f"error: {failure}\n")
        return EXIT_CHECK_FAILED
    if request.targets:
        from megatron_ettin.release.upload import upload_all

        upload_all(request.targets, private=flags.private, log=print)
    return 0


if __name__ == "__main__":
    main()
