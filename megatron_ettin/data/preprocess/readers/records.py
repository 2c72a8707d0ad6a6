"""Values that readers and workers exchange: input files, spans of them, tasks, and batches of records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

BATCH_BYTES = 1 << 20
"""Text of a batch, roughly: memory stays small, and a batch can be sent to another process."""
LARGEST_DOCUMENT_FILE = 32 << 20
"""Bytes of a text file that is one document: the file and its ids are held in memory."""
TOO_LARGE_RULE = "a file of this size cannot be one document; give --text-documents paragraph or line"


@dataclass(frozen=True)
class InputFile:
    """One file to read."""

    path: str
    kind: str
    """``json`` (one object per line), ``text``, ``parquet`` or ``mds``."""
    compression: str
    """``gz``, ``zst``, ``bz2``, ``xz`` or empty."""
    num_bytes: int
    """Size on disk; 0 for a pipe."""
    changed_ns: int
    """Modification time; 0 for a pipe."""
    is_pipe: bool = False

    @property
    def can_be_cut(self) -> bool:
        """Whether reading may start anywhere in the file."""
        return self.kind in ("json", "text") and not self.compression and not self.is_pipe

    @property
    def record_name(self) -> str:
        """What a record of the file is called in messages."""
        return {"parquet": "row", "mds": "sample"}.get(self.kind, "line")


@dataclass(frozen=True)
class Span:
    """A byte range of one input file."""

    file: int
    """Index of the file in the list of inputs."""
    start: int
    end: int | None
    """None for the whole file, of any kind; else the file can be cut."""


@dataclass(frozen=True)
class Task:
    """A unit of work: one large file that cannot be cut, a span of a large one, or some small files."""

    number: int
    spans: tuple[Span, ...]
    weight: int
    """Bytes of text, roughly."""


@dataclass(frozen=True)
class Batch:
    """Consecutive records of one file."""

    file: int
    """Index of the file in the list of inputs."""
    form: str
    """What a record is: ``json`` (the bytes of a line), ``text`` (bytes) or ``values`` (one value per key)."""
    numbers: Sequence[int]
    """Number of each record, counted from 1: in its file, or in its span where that starts inside the file."""
    records: Sequence[Any]
    text_bytes: int
    input_bytes: int
    """Bytes read from disk."""
    num_lines: int = 0
    """Lines read, including blank ones."""
    damage: tuple[int, str] | None = None
    """Number of the first record that cannot be read, and the reason; the last batch of the file."""
