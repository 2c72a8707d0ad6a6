"""What preprocessing is asked to do, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass

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
