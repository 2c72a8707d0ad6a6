"""Concatenate .bin/.idx pairs into one pair, streaming."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megatron_ettin.cli import ToolParser, console_script
from megatron_ettin.errors import ConfigError


@console_script
def main(arguments: Sequence[str]) -> int:
    """Merge the pairs and report what was written."""
    parser = ToolParser(__doc__ or "")
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="PREFIX",
        help="pairs in order, or a folder with pairs, sorted by name",
    )
    parser.add_argument("--output-prefix", required=True, metavar="PREFIX", help="prefix of the pair to write")
    parser.add_argument("--partial", action="store_true", help="merge an incomplete set of shards")
    options = parser.parse(arguments)
    from megatron_ettin.data.corpus.merge import merge_pairs, pairs_in

    prefixes: list[str] = []
    for given in options.input:
        pairs = pairs_in(Path(given)) if Path(given).is_dir() else [given.removesuffix(".idx")]
        if not pairs:
            raise ConfigError(f"--input {given}: the folder has no .idx files")
        prefixes += pairs
    header = merge_pairs(prefixes, options.output_prefix, partial=options.partial)
    print(f"{options.output_prefix}: {len(prefixes)} pairs, {header.num_marks - 1:,} documents")
    return 0


if __name__ == "__main__":
    main()
