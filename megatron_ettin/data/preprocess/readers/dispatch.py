"""Records of a task in batches of about a megabyte: memory stays small, and a batch can be sent to another process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from megatron_ettin.data.preprocess.readers.records import Batch, InputFile, Span, Task


def read_task(task: Task, inputs: Sequence[InputFile], keys: Sequence[str], text_documents: str) -> Iterator[Batch]:
    """Yield all records of a task in order."""
    for span in task.spans:
        yield from read_span(span, inputs[span.file], keys, text_documents)


def read_span(span: Span, file: InputFile, keys: Sequence[str], text_documents: str) -> Iterator[Batch]:
    """Yield the records of one stretch of a file; formats load their library when they are met."""
    if file.kind == "parquet":
        from megatron_ettin.data.preprocess.readers.parquet import read_parquet

        yield from read_parquet(span.file, file, keys)
    elif file.kind == "mds":
        from megatron_ettin.data.preprocess.readers.mds import read_mds

        yield from read_mds(span.file, file, keys)
    else:
        from megatron_ettin.data.preprocess.readers.lines import read_lines, read_paragraphs, read_whole

        if file.kind == "text" and text_documents == "file":
            yield from read_whole(span.file, file)
        elif file.kind == "text" and text_documents == "paragraph":
            yield from read_paragraphs(span, file)
        else:
            yield from read_lines(span, file)
