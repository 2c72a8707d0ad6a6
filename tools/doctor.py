"""Report what this machine can run, and for the rest the reason and the fix. The exit code is 0."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_ettin.cli import ToolParser, console_script


@console_script
def main(arguments: Sequence[str]) -> int:
    """Run the checks and print their findings."""
    parser = ToolParser(__doc__ or "")
    parser.add_argument("--path", default="", metavar="DIR", help="measure how fast this folder's disk is (256 MiB)")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    options = parser.parse(arguments)
    from megatron_ettin.doctor.report import diagnose, report_json, report_text

    findings = diagnose(options.path)
    print(report_json(findings) if options.json else report_text(findings))
    return 0


if __name__ == "__main__":
    main()
