"""Write the tokens of a run in the order of training as parquet, one folder for each checkpoint interval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megatron_ettin.cli import ToolParser, console_script


@console_script
def main(arguments: Sequence[str]) -> int:
    """Reconstruct the order from the checkpoints in --load, and write it."""
    parser = ToolParser(__doc__ or "")
    parser.add_argument("--load", required=True, metavar="RUN", help="a --save folder with its checkpoints")
    parser.add_argument(
        "--output", metavar="DIR", help="folder to write; by default RUN/training_order, which a release includes"
    )
    options = parser.parse(arguments)
    from megatron_ettin.release.plan.request import TRAINING_ORDER_FOLDER
    from megatron_ettin.train.export_order import export_training_order

    save = Path(options.load)
    output = Path(options.output) if options.output else save / TRAINING_ORDER_FOLDER
    export_training_order(save, output, print)
    return 0


if __name__ == "__main__":
    main()
