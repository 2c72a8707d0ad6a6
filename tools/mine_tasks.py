"""Make classification and generative tasks for tools/evaluate.py from the docstrings and functions of packages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megatron_ettin.cli import ToolParser, console_script, positive
from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.mining.mined_tasks import TASKS, write_tasks
from megatron_ettin.evaluation.mining.pair_files import drop_duplicates, mine_package


@console_script
def main(arguments: Sequence[str]) -> int:
    """Write OUTPUT/classification and OUTPUT/generative, and print the number of lines of each file."""
    parser = ToolParser(__doc__ or "")
    parser.add_argument(
        "--source", nargs="+", required=True, metavar="DIR|NAME", help="folders of sources, or installed packages"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="the folder for --data of tools/evaluate.py")
    parser.add_argument(
        "--max-items", type=positive, default=2000, metavar="N",
        help="at most N lines to train on, and a quarter of it in any other file",
    )  # fmt: skip
    options = parser.parse(arguments)
    mined = (pair for source in options.source for pair in mine_package(source))
    pairs = drop_duplicates(sorted(mined, key=lambda pair: pair.order))
    sizes = write_tasks(pairs, Path(options.output), most=options.max_items)
    if not sizes:
        raise ConfigError(f"--source {' '.join(options.source)}: no function with a docstring passes the filters")
    for name, size in sizes.items():
        print(f"{options.output}/{name}: {size:,}")
    for task in TASKS:
        if not any(name.startswith(task) for name in sizes):
            print(f"{task}: left out, because the sources give too few lines of it; give more")
    return 0


if __name__ == "__main__":
    main()
