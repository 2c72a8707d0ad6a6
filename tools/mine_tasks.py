"""Make tasks for tools/evaluate.py from docstrings and functions of Python packages: two to learn, two to choose in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megatron_ettin.cli import ToolParser, positive, run_tool
from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.mining.mined_tasks import TASKS, write_tasks
from megatron_ettin.evaluation.mining.pair_files import drop_duplicates, mine_package


def main(arguments: Sequence[str]) -> int:
    """Write OUTPUT/classification and OUTPUT/generative, and print how many lines each file holds."""
    parser = ToolParser(__doc__ or "")
    parser.add_argument(
        "--source", nargs="+", required=True, metavar="DIR|NAME", help="folders of sources, or installed packages"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder that --data of tools/evaluate.py names")
    parser.add_argument(
        "--max-items", type=positive, default=2000, metavar="N",
        help="at most N lines to train on, and a quarter of it in any other file",
    )  # fmt: skip
    options = parser.parse(arguments)
    found = (pair for source in options.source for pair in mine_package(source))
    pairs = drop_duplicates(sorted(found, key=lambda pair: pair.order))
    sizes = write_tasks(pairs, Path(options.output), most=options.max_items)
    if not sizes:
        raise ConfigError(f"--source {' '.join(options.source)}: no function with a docstring passes the filters")
    for name, size in sizes.items():
        print(f"{options.output}/{name}: {size:,}")
    for task in TASKS:
        if not any(name.startswith(task) for name in sizes):
            print(f"{task}: left out, as the sources make too few lines of it; give more")
    return 0


if __name__ == "__main__":
    run_tool(main)
