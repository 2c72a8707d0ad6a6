"""Records of a task in batches of about a megabyte: memory stays small, and a batch can be sent to another process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_ettin.data.preprocess.inputs import InputFile
from megatron_ettin.data.preprocess.plan import Span, Task


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


def read_task(task: Task, inputs: Sequence[InputFile], keys: Sequence[str], text_documents: str) -> Iterator[Batch]:
    """Yield all records of a task in order."""
    for span in task.spans:
        yield from read_span(span, inputs[span.file], keys, text_documents)


def read_span(span: Span, file: InputFile, keys: Sequence[str], text_documents: str) -> Iterator[Batch]:
    """Yield the records of one stretch of a file; formats load their library when they are met."""
    if file.kind == "parquet":
        from megatron_ettin.data.preprocess.parquet import read_parquet

        yield from read_parquet(span.file, file, keys)
    elif file.kind == "mds":
        from megatron_ettin.data.preprocess.mds import read_mds

        yield from read_mds(span.file, file, keys)
    else:
        from megatron_ettin.data.preprocess.lines import read_lines, read_paragraphs, read_whole

        if file.kind == "text" and text_documents == "file":
            yield from read_whole(span.file, file)
        elif file.kind == "text" and text_documents == "paragraph":
            yield from read_paragraphs(span, file)
        else:
            yield from read_lines(span, file)


def record_name(kind: str) -> str:
    """Return what a record of such a file is called in messages."""
    return {"parquet": "row", "mds": "sample"}.get(kind, "line")
