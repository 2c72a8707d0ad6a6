"""Turn text into the .bin/.idx pair that training reads (Megatron's format)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from megatron_ettin.config.errors import ConfigError
from megatron_ettin.config.tool_cli import ProgressLine, ToolParser, positive, run_tool


def build_parser() -> ToolParser:
    """Return the command line."""
    parser = ToolParser(
        "Encode documents into PREFIX_KEY_document.bin and .idx. An interrupted run goes on by the same command."
    )
    add = parser.add_argument
    add(
        "--input", nargs="+", required=True, metavar="PATH", help="files, globs or folders: .jsonl, .parquet, .txt, MDS"
    )
    add("--output-prefix", required=True, metavar="PREFIX", help="begin of the names written")
    add("--tokenizer-type", choices=["HuggingFaceTokenizer"], default="HuggingFaceTokenizer")
    add("--tokenizer-model", required=True, metavar="DIR", help="folder with tokenizer.json")
    add("--json-keys", nargs="+", default=["text"], metavar="KEY", help="fields or columns, texts or ready token ids")
    add("--append-eod", action="store_true", help="write [SEP] behind each document")
    add("--split-sentences", action="store_true", help="make each sentence a sequence: PREFIX_KEY_sentence.bin")
    add("--keep-newlines", action="store_true", help="leave white space behind a sentence in it")
    add("--lang", default="english", help="language of nltk's Punkt model")
    add("--train-punkt", action="store_true", help="learn Punkt on the input and save it in --punkt-model")
    add("--punkt-model", default="", metavar="DIR", help="where it is; --train-punkt's default is PREFIX.punkt")
    add("--text-documents", choices=["file", "paragraph", "line"], default="file", help="a document of a .txt")
    add("--on-error", choices=["stop", "skip"], default="stop", help="what to do about a record that is no document")
    add("--workers", type=positive, default=len(os.sched_getaffinity(0)), metavar="N", help="processes that encode")
    add("--part-megabytes", type=int, default=0, metavar="N", help="text in a part of the work; 0: by the input's size")
    add("--shard-index", type=int, default=0, metavar="I", help="which of --num-shards shares of the work, from 0")
    add("--num-shards", type=positive, default=1, metavar="N", help="machines that share the work")
    add("--executor", choices=["local", "ray"], default="local", help="this machine, or a Ray cluster")
    for flag in ("--partitions", "--log-interval"):
        add(flag, type=positive, default=1, metavar="N", help="taken for Megatron's sake; changes nothing")
    add("--keep-sequential-samples", action="store_true", help="taken for Megatron's sake; the order is always kept")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Preprocess and say what was written."""
    options = build_parser().parse(arguments)
    if not 0 <= options.shard_index < options.num_shards:
        raise ConfigError(
            f"--shard-index {options.shard_index}: must be from 0 to below --num-shards {options.num_shards}"
        )
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # nothing here multiplies, and workers fork without threads
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism
    from megatron_ettin.data.preprocess.report import ProgressText, tell_result
    from megatron_ettin.data.preprocess.run import preprocess
    from megatron_ettin.data.preprocess.settings import PreprocessSettings

    names = set(PreprocessSettings.__dataclass_fields__)
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(options).items()
        if name in names
    }
    settings = PreprocessSettings(**given)
    line, words = ProgressLine(sys.stderr), ProgressText()
    done = preprocess(settings, lambda now: line.update(words.tell(now)), lambda text: print(text, file=sys.stderr))
    line.finish(words.tell(done.progress))
    for text in tell_result(done.progress, done.skipped_file):
        print(text, file=sys.stderr)
    print(*done.pairs, sep="\n")
    return 0


if __name__ == "__main__":
    run_tool(main)
