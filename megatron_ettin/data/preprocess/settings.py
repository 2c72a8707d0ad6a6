"""Settings of preprocessing, and the flags they come from."""

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
    """What to read, how to encode it and where to write it: the flags of tools/preprocess_data.py."""

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
    """Text of one part; 0 chooses it by the size of the inputs."""
    shard_index: int = 0
    num_shards: int = 1
    executor: str = "local"

    @property
    def prefix(self) -> str:
        """Start of the names of all files this run writes; it names the shard where there are several."""
        if self.num_shards == 1:
            return self.output_prefix
        return f"{self.output_prefix}_{self.shard_index:05d}-of-{self.num_shards:05d}"

    def pair(self, key: str) -> str:
        """Return the prefix of the .bin/.idx pair of one key, named as Megatron names it."""
        return f"{self.prefix}_{key}_{'sentence' if self.split_sentences else 'document'}"

    @property
    def work_folder(self) -> str:
        """Folder of the parts until all of them are finished."""
        return f"{self.prefix}.parts"


def add_preprocess_flags(parser: argparse.ArgumentParser) -> None:
    """Add Megatron's flags of the same names, and this tool's own."""
    add = parser.add_argument
    add(
        "--input", nargs="+", required=True, metavar="PATH", help="files, globs or folders: .jsonl, .parquet, .txt, MDS"
    )
    add("--output-prefix", required=True, metavar="PREFIX", help="start of the names of the written files")
    add("--tokenizer-type", choices=["HuggingFaceTokenizer"], default="HuggingFaceTokenizer")
    add("--tokenizer-model", required=True, metavar="DIR", help="folder with tokenizer.json")
    add("--json-keys", nargs="+", default=["text"], metavar="KEY", help="JSON keys or columns: texts or token ids")
    add(
        "--append-eod",
        action="store_true",
        help="append the end of a text to each document: the EOS token of the tokenizer, or its SEP token",
    )
    add("--split-sentences", action="store_true", help="make each sentence a sequence: PREFIX_KEY_sentence.bin")
    add("--keep-newlines", action="store_true", help="keep the white space after a sentence")
    add("--lang", default="english", help="language of nltk's Punkt model")
    add("--train-punkt", action="store_true", help="train Punkt on the input and save it in --punkt-model")
    add("--punkt-model", default="", metavar="DIR", help="folder of the model; --train-punkt defaults to PREFIX.punkt")
    add("--text-documents", choices=TEXT_DOCUMENTS, default="file", help="what one document of a .txt file is")
    add("--on-error", choices=["stop", "skip"], default="stop", help="what to do with a record that is not a document")
    add("--workers", type=positive, default=len(os.sched_getaffinity(0)), metavar="N", help="processes that encode")
    add("--part-megabytes", type=count, default=0, metavar="N", help="text in a part; 0 chooses by the input size")
    add("--shard-index", type=count, default=0, metavar="I", help="index of this machine among --num-shards, from 0")
    add("--num-shards", type=positive, default=1, metavar="N", help="machines that share the work")
    add("--executor", choices=["local", "ray"], default="local", help="this machine, or a Ray cluster")
    for flag in ("--partitions", "--log-interval"):
        add(flag, type=positive, default=1, metavar="N", help="accepted for compatibility with Megatron; has no effect")
    add("--keep-sequential-samples", action="store_true", help="accepted for compatibility; the order is always kept")


def settings_of(flags: argparse.Namespace) -> PreprocessSettings:
    """Return the settings that the flags give.

    Raises:
        ConfigError: --shard-index is out of range.
    """
    if not 0 <= flags.shard_index < flags.num_shards:
        raise ConfigError(f"--shard-index {flags.shard_index}: must be from 0 to below --num-shards {flags.num_shards}")
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(flags).items()
        if name in PreprocessSettings.__dataclass_fields__
    }
    return PreprocessSettings(**given)
