"""What preprocessing is asked to do, and how far it is."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from typing import Any

from megatron_ettin.cli import count, positive
from megatron_ettin.errors import ConfigError

TEXT_DOCUMENTS = ("file", "paragraph", "line")
"""What one document of a plain text file is; a paragraph ends at a blank line."""


@dataclass(frozen=True)
class PreprocessSettings:
    """What to read, how to encode it and where to write it. Fields are the flags of tools/preprocess_data.py."""

    input: tuple[str, ...]
    output_prefix: str
    tokenizer_model: str
    json_keys: tuple[str, ...] = ("text",)
    append_eod: bool = False
    split_sentences: bool = False
    keep_newlines: bool = False
    lang: str = "english"
    train_punkt: bool = False
    punkt_model: str = ""
    text_documents: str = "file"
    on_error: str = "stop"
    workers: int = 1
    part_megabytes: int = 0
    """Text of one part of the work; 0 chooses by the size of the inputs."""
    shard_index: int = 0
    num_shards: int = 1
    executor: str = "local"

    @property
    def prefix(self) -> str:
        """Begin of the names that this run writes: with the machine's share, where it has only a share."""
        if self.num_shards == 1:
            return self.output_prefix
        return f"{self.output_prefix}_{self.shard_index:05d}-of-{self.num_shards:05d}"

    def pair(self, key: str) -> str:
        """Return the prefix of the pair written for one key, named as Megatron names it."""
        return f"{self.prefix}_{key}_{'sentence' if self.split_sentences else 'document'}"

    @property
    def work_folder(self) -> str:
        """Where parts lie until all are there."""
        return f"{self.prefix}.parts"


@dataclass
class Progress:
    """How far preprocessing is."""

    documents: int = 0
    empty_documents: int = 0
    skipped: int = 0
    text_bytes: int = 0
    tokens: int = 0
    input_bytes: int = 0
    """Of the files as they lie on disk, so compressed where they are."""
    all_input_bytes: int = 0
    """What ``input_bytes`` will be in the end; 0 where a pipe does not tell."""

    def add(self, other: Progress) -> None:
        """Count what was done in one more step."""
        self.documents += other.documents
        self.empty_documents += other.empty_documents
        self.skipped += other.skipped
        self.text_bytes += other.text_bytes
        self.tokens += other.tokens
        self.input_bytes += other.input_bytes


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
