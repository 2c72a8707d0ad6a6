"""Train a byte-level BPE tokenizer with ModernBERT's special tokens on jsonl text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megatron_ettin.cli import ToolParser, console_script, positive
from megatron_ettin.data.preprocess.settings import TEXT_DOCUMENTS


@console_script
def main(arguments: Sequence[str]) -> int:
    """Train and save the tokenizer."""
    parser = ToolParser(__doc__ or "")
    parser.add_argument("--input", nargs="+", required=True, metavar="PATH", help="as for preprocess_data.py")
    parser.add_argument(
        "--text-documents", choices=TEXT_DOCUMENTS, default="file", help="what one document of a .txt file is"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--vocab-size", type=positive, default=4096, metavar="N", help="number of tokens, including special ones"
    )
    options = parser.parse(arguments)
    from megatron_ettin.data.corpus.train_tokenizer import save_tokenizer, train_tokenizer
    from megatron_ettin.data.preprocess.texts import read_texts

    texts = (text for _, text in read_texts(options.input, "--input", text_documents=options.text_documents))
    save_tokenizer(train_tokenizer(texts, options.vocab_size), Path(options.output))
    print(f"{options.output}: {options.vocab_size:,} tokens")
    return 0


if __name__ == "__main__":
    main()
