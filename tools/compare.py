"""Compare evaluated models: the Ettin paper's figures with its scores, and the differences that exceed noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megatron_ettin.cli import ToolParser, console_script


@console_script
def main(arguments: Sequence[str]) -> int:
    """Write report.md, figure1 to figure3 and learning_curve as PNG and PDF, and print the report."""
    parser = ToolParser(__doc__ or "")
    parser.add_argument("results", metavar="DIR", help="the --output of tools/evaluate.py")
    parser.add_argument("--output", metavar="DIR", help="folder for report and figures; by default DIR/comparison")
    parser.add_argument(
        "--model", nargs="+", metavar="NAME", default=(), help="only these models of DIR; by default all"
    )
    options = parser.parse(arguments)

    # matplotlib is slow to import
    from megatron_ettin.evaluation.comparison.compare import read_comparison, write_comparison

    results = Path(options.results)
    output = Path(options.output) if options.output else results / "comparison"
    written = write_comparison(read_comparison(results, options.model), output)
    print(written.report)
    print(f"written: {', '.join(str(path) for path in written.files)}")
    return 0


if __name__ == "__main__":
    main()
