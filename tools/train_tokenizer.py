"""Train a byte-level BPE tokenizer with ModernBERT's special tokens on jsonl text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron_ettin.config.errors import ConfigError
from megatron_ettin.config.tool_cli import ToolParser, positive, run_tool


def main(arguments: Sequence[str]) -> int:
    """Train and save."""
    parser = ToolParser(__doc__ or "")
    parser.add_argument("--input", required=True, metavar="FILE", help='jsonl file with a "text" in each line')
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--vocab-size", type=positive, default=4096, metavar="N", help="tokens, special ones included")
    options = parser.parse(arguments)
    if not Path(options.input).is_file():
        raise ConfigError(f"--input {options.input}: there is no such file")
    from megatron_ettin.data.train_tokenizer import save_tokenizer, train_tokenizer

    save_tokenizer(train_tokenizer(_texts(options.input), options.vocab_size), Path(options.output))
    print(f"{options.output}: {options.vocab_size:,} tokens")
    return 0


def _texts(path: str) -> Iterator[str]:
    with Path(path).open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"]


if __name__ == "__main__":
    run_tool(main)
