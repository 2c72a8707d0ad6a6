"""Records of input files in batches of about a megabyte, small enough to be sent to another process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LARGEST_DOCUMENT_FILE = 32 << 20
"""A text file that is one document is held in memory, and its ids with it."""


TOO_LARGE_RULE = "a file of this size cannot be one document; give --text-documents paragraph or line"


@dataclass(frozen=True)
class Span:
    """A stretch of one input file."""

    file: int
    """Number of the file in the list of inputs."""
    start: int
    end: int | None
    """Bytes of a file that can be cut; None for the whole file."""


@dataclass(frozen=True)
class Task:
    """A unit of work: the end of one file, some whole small files, or a stretch of a large one."""

    number: int
    spans: tuple[Span, ...]
    weight: int
    """Bytes of text in it, roughly."""


@dataclass(frozen=True)
class InputFile:
    """One file to read."""

    path: str
    kind: str
    """``json`` (an object a line), ``text``, ``parquet`` or ``mds``."""
    compression: str
    """``gz``, ``zst`` or empty."""
    num_bytes: int
    """Size on disk; 0 for a pipe."""
    changed_ns: int
    is_pipe: bool = False

    @property
    def can_be_cut(self) -> bool:
        """Whether reading may begin anywhere in it."""
        return self.kind in ("json", "text") and not self.compression and not self.is_pipe


@dataclass(frozen=True)
class Batch:
    """Some records of one file."""

    file: int
    """Number of the file in the list of inputs."""
    form: str
    """What a record is: ``json`` (the bytes of a line), ``text`` (bytes) or ``values`` (one for each key)."""
    numbers: Sequence[int]
    """Of each record in its file from 1; in the span, where that begins inside the file."""
    records: Sequence[Any]
    text_bytes: int
    input_bytes: int
    """Of the file on disk."""
    num_lines: int = 0
    """Lines read for this batch, blank ones counted."""
    broken: tuple[int, str] | None = None
    """Behind the records, the file cannot be read on: number of the record, and why."""


def record_name(kind: str) -> str:
    """Return what a record of such a file is called in messages."""
    return {"parquet": "row", "mds": "sample"}.get(kind, "line")
