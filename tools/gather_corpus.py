"""Gather text into a jsonl file: from the Python standard library, or from your own file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megatron_ettin.cli import ToolParser, console_script, count, positive
from megatron_ettin.errors import ConfigError


@console_script
def main(arguments: Sequence[str]) -> int:
    """Gather, shuffle and write documents."""
    parser = ToolParser(__doc__ or "")
    parser.add_argument("--output", required=True, metavar="FILE", help="jsonl file to write")
    parser.add_argument(
        "--corpus", metavar="FILE", help="your own text: .jsonl with one text per line, .parquet, or plain text"
    )
    parser.add_argument(
        "--max-bytes", type=positive, default=1 << 40, metavar="N", help="keep at most this many bytes of text"
    )
    parser.add_argument("--seed", type=count, default=21, metavar="N", help="seed of the shuffle")
    options = parser.parse(arguments)
    from megatron_ettin.data.preprocess.starter_text import choose_documents, own_text, standard_library, write_jsonl

    source = own_text(options.corpus) if options.corpus else standard_library()
    documents = choose_documents(source, seed=options.seed, largest_bytes=options.max_bytes)
    if not documents:
        given = f"--corpus {options.corpus}" if options.corpus else f"--max-bytes {options.max_bytes}"
        raise ConfigError(f"{given}: leaves no text")
    write_jsonl(documents, Path(options.output))
    print(f"{options.output}: {len(documents):,} documents, {sum(len(d.text) for d in documents):,} characters")
    return 0


if __name__ == "__main__":
    main()
