"""Flags of preprocessing, and the settings that they make."""

from __future__ import annotations

import argparse
import os
from typing import Any

from megatron_ettin.config.errors import ConfigError
from megatron_ettin.config.tool_cli import count, positive
from megatron_ettin.data.preprocess.settings import TEXT_DOCUMENTS, PreprocessSettings


def add_preprocess_flags(parser: argparse.ArgumentParser) -> None:
    """Add what can be asked for: Megatron's flags of the same names, and this tool's own."""
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
    add("--text-documents", choices=TEXT_DOCUMENTS, default="file", help="a document of a .txt")
    add("--on-error", choices=["stop", "skip"], default="stop", help="what to do about a record that is no document")
    add("--workers", type=positive, default=len(os.sched_getaffinity(0)), metavar="N", help="processes that encode")
    add("--part-megabytes", type=count, default=0, metavar="N", help="text in a part; 0: by the input's size")
    add("--shard-index", type=int, default=0, metavar="I", help="which of --num-shards shares of the work, from 0")
    add("--num-shards", type=positive, default=1, metavar="N", help="machines that share the work")
    add("--executor", choices=["local", "ray"], default="local", help="this machine, or a Ray cluster")
    for flag in ("--partitions", "--log-interval"):
        add(flag, type=positive, default=1, metavar="N", help="taken for Megatron's sake; changes nothing")
    add("--keep-sequential-samples", action="store_true", help="taken for Megatron's sake; the order is always kept")


def settings_of(flags: argparse.Namespace) -> PreprocessSettings:
    """Return what was asked for.

    Raises:
        ConfigError: the machine's number is none of those that share the work.
    """
    if not 0 <= flags.shard_index < flags.num_shards:
        raise ConfigError(f"--shard-index {flags.shard_index}: must be from 0 to below --num-shards {flags.num_shards}")
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(flags).items()
        if name in PreprocessSettings.__dataclass_fields__
    }
    return PreprocessSettings(**given)
