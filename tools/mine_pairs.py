"""Mine pairs of docstring and function from Python packages, for the retrieval suite of tools/evaluate.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megatron_ettin.cli import ToolParser, console_script, positive
from megatron_ettin.evaluation.flags import share
from megatron_ettin.evaluation.mining.pair_files import STANDARD_LIBRARY, mine_pairs, write_pairs


@console_script
def main(arguments: Sequence[str]) -> int:
    """Write OUTPUT/train.jsonl and OUTPUT/test.jsonl, and print the number of pairs."""
    parser = ToolParser(__doc__ or "")
    parser.add_argument(
        "--source", nargs="+", default=[STANDARD_LIBRARY], metavar="DIR|NAME",
        help=f"folders of sources, names of installed packages, or {STANDARD_LIBRARY}",
    )  # fmt: skip
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the task: DATA/retrieval/TASK")
    parser.add_argument("--max-pairs", type=positive, metavar="N", help="keep at most N pairs, sampled from all files")
    parser.add_argument("--test-share", type=share, default=0.1, metavar="X", help="share of files in the test split")
    options = parser.parse(arguments)
    mined = mine_pairs(options.source, max_pairs=options.max_pairs, test_share=options.test_share)
    write_pairs(mined, Path(options.output))
    kept = len(mined.train) + len(mined.test)
    print(f"{options.output}: {len(mined.train):,} pairs in train.jsonl, {len(mined.test):,} in test.jsonl")
    print(f"{mined.num_found:,} functions passed the filters; {kept:,} are kept, without duplicates")
    return 0


if __name__ == "__main__":
    main()
