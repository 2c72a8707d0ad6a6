"""Turn text into the .bin/.idx pair that training reads (Megatron's format)."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from megatron_ettin.config.tool_cli import ProgressLine, ToolParser, positive, run_tool


def build_parser() -> ToolParser:
    """Return the command line."""
    parser = ToolParser("Encode jsonl text into PREFIX_KEY_document.bin and .idx, one document a line.")
    parser.add_argument("--input", nargs="+", required=True, metavar="FILE", help="jsonl files, .gz or not")
    parser.add_argument("--output-prefix", required=True, metavar="PREFIX", help="begin of the names written")
    parser.add_argument("--tokenizer-type", choices=["HuggingFaceTokenizer"], default="HuggingFaceTokenizer")
    parser.add_argument("--tokenizer-model", required=True, metavar="DIR", help="folder with tokenizer.json")
    parser.add_argument("--json-keys", nargs="+", default=["text"], metavar="KEY", help="fields to encode")
    parser.add_argument("--append-eod", action="store_true", help="write [SEP] behind each document")
    parser.add_argument("--workers", type=positive, default=1, metavar="N", help="processes that encode")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Preprocess and say what was written."""
    options = build_parser().parse(arguments)
    from megatron_ettin.data.preprocess import PreprocessSettings, Progress, output_prefix, preprocess

    settings = PreprocessSettings(
        inputs=tuple(options.input),
        output_prefix=options.output_prefix,
        tokenizer_model=options.tokenizer_model,
        json_keys=tuple(options.json_keys),
        append_eod=options.append_eod,
        workers=options.workers,
    )
    begin = time.monotonic()
    line = ProgressLine(sys.stderr)

    def text(progress: Progress) -> str:
        seconds = max(time.monotonic() - begin, 1e-9)
        rates = f"{progress.text_bytes / seconds / 1e6:.1f} MB/s, {progress.tokens / seconds:,.0f} tokens/s"
        return f"{progress.documents:,} documents, {progress.tokens:,} tokens, {rates}"

    line.finish(text(preprocess(settings, lambda progress: line.update(text(progress)))))
    for key in settings.json_keys:
        print(output_prefix(settings, key))
    return 0


if __name__ == "__main__":
    run_tool(main)
