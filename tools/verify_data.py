"""Check .bin/.idx pairs: sizes, index, token ids, and checksums if there is a manifest. Exit code 1 if one is bad."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from megatron_ettin.cli import ToolParser, console_script, positive


@console_script
def main(arguments: Sequence[str]) -> int:
    """Check all pairs and report each."""
    parser = ToolParser(__doc__ or "")
    parser.add_argument("prefix", nargs="+", metavar="PREFIX", help="prefix of a pair, as for --data-path")
    parser.add_argument("--tokenizer-model", metavar="DIR", help="check that token ids are of this tokenizer")
    parser.add_argument("--vocab-size", type=positive, metavar="N", help="check that token ids are below N")
    options = parser.parse(arguments)
    from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
    from megatron_ettin.data.corpus.verify import BadPair, verify_pair

    vocab_size = options.vocab_size
    if vocab_size is None and options.tokenizer_model:
        vocab_size = TokenizerFiles.load(options.tokenizer_model).size
    code = 0
    for prefix in options.prefix:
        try:
            print(verify_pair(prefix.removesuffix(".idx"), vocab_size))
        except BadPair as error:
            print(f"bad: {error}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    main()
