"""Encode one task: from its records to the files of its parts, in any process that an executor starts."""

from __future__ import annotations

import json
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from types import TracebackType

from megatron_ettin.data.corpus.indexed_writer import IndexedWriter
from megatron_ettin.data.corpus.manifest import Part
from megatron_ettin.data.preprocess.block_encoder import BlockEncoder
from megatron_ettin.data.preprocess.documents import BadRecord, Value, read_documents, read_task, record_message
from megatron_ettin.data.preprocess.progress import Progress
from megatron_ettin.data.preprocess.readers.lines import lines_before
from megatron_ettin.data.preprocess.readers.records import Batch, InputFile, Task
from megatron_ettin.data.preprocess.running_check import EncodersDiffer
from megatron_ettin.data.preprocess.settings import PreprocessSettings
from megatron_ettin.errors import ConfigError


@dataclass(frozen=True)
class Job:
    """Everything a worker needs."""

    settings: PreprocessSettings
    inputs: Sequence[InputFile]
    part_bytes: int
    encoder: BlockEncoder


@dataclass(frozen=True)
class Skipped:
    """A record that was skipped; it is numbered from the start of the task's span of the file."""

    file: int
    number: int
    reason: str
    onwards: bool = False
    """Whether all records after it are skipped too."""


@dataclass(frozen=True)
class PartDone:
    """A part is finished: its files have their names."""

    task: int
    part: int
    progress: Progress
    """Of the part."""
    pairs: tuple[Part, ...]
    """One per key."""
    num_lines: int
    difference: str = ""
    """Where gigatoken was found to differ from the tokenizers library, which then encoded the part again."""


@dataclass(frozen=True)
class LentPart:
    """A part whose records were written to a file, for another worker to encode."""

    task: int
    part: int
    path: str


@dataclass(frozen=True)
class TaskEnded:
    """All parts of a task have been encoded or lent."""

    task: int
    num_parts: int


Event = Progress | PartDone | LentPart | TaskEnded
PendingTask = tuple[Task, frozenset[int]]
"""A task, and the numbers of its parts that are finished already."""


def part_prefix(folder: str, task: int, part: int, key_number: int) -> str:
    """Return the prefix of the .bin/.idx pair of one part and key."""
    return f"{folder}/{task:06d}-{part:06d}-{key_number}"


def skipped_file(folder: str, task: int, part: int) -> str:
    """Return the path of the list of records that a part skipped; it exists only where there are some."""
    return f"{folder}/{task:06d}-{part:06d}.skipped.jsonl"


def read_skipped(path: Path) -> Iterator[Skipped]:
    """Yield the records that a list contains."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield Skipped(**json.loads(line))


def process_task(
    job: Job, task: Task, done: frozenset[int] = frozenset(), may_lend: Callable[[], bool] = lambda: False
) -> Iterator[Event]:
    """Encode a task, and yield the progress after every batch.

    Args:
        job: the settings and the encoder.
        task: the spans to encode.
        done: numbers of its parts that are finished already.
        may_lend: called before each part; whether another worker is idle and can encode it.

    Raises:
        ConfigError: a record is not a document, and --on-error is stop.
        OSError: a file cannot be read or written.
    """
    settings = job.settings
    batches = read_task(task, job.inputs, settings.json_keys, settings.text_documents)
    reads_pipe = any(job.inputs[span.file].is_pipe for span in task.spans)
    first = next(batches, None)
    part = 0
    while first is not None or part == 0:
        records = _PartBatches(first, batches, job.part_bytes)
        reading = iter(records)
        spilled = f"{settings.work_folder}/{task.number:06d}-{part:06d}.lent"
        if part not in done and first is not None and may_lend():
            yield LentPart(task.number, part, _spill(reading, spilled))
        elif part not in done and reads_pipe:  # it may have to be read again
            yield from encode_lent(job, task, part, _spill(reading, spilled))
        elif part not in done:
            yield from encode_part(job, task, part, reading, partial(_read_part, job, task, part))
        for _ in reading:
            pass
        first = records.next_batch
        part += 1
    yield TaskEnded(task.number, part)


def encode_lent(job: Job, task: Task, part: int, path: str) -> Iterator[Progress | PartDone]:
    """Encode a part from the file of its records, then delete the file."""
    yield from encode_part(job, task, part, _read_spilled(path), partial(_read_spilled, path))
    Path(path).unlink()


def _read_part(job: Job, task: Task, part: int) -> Iterator[Batch]:
    """Yield the batches of one part, read again from the inputs."""
    batches = read_task(task, job.inputs, job.settings.json_keys, job.settings.text_documents)
    first = next(batches, None)
    for _ in range(part):
        records = _PartBatches(first, batches, job.part_bytes)
        for _ in records:
            pass
        first = records.next_batch
    yield from _PartBatches(first, batches, job.part_bytes)


class _PartBatches:
    """The batches of one part; once they are consumed, ``next_batch`` is the first one of the next part."""

    def __init__(self, first: Batch | None, batches: Iterator[Batch], part_bytes: int) -> None:
        self._first, self._batches, self._part_bytes = first, batches, part_bytes
        self.next_batch: Batch | None = None

    def __iter__(self) -> Iterator[Batch]:
        text_bytes = 0
        for batch in chain([self._first] if self._first else [], self._batches):
            if text_bytes >= self._part_bytes:
                self.next_batch = batch
                return
            yield batch
            text_bytes += batch.text_bytes


def encode_part(
    job: Job, task: Task, part: int, batches: Iterator[Batch], read_again: Callable[[], Iterator[Batch]]
) -> Iterator[Progress | PartDone]:
    """Write the pairs of one part, one per key; where a check finds a difference, with the tokenizers library."""
    total = Progress()
    try:
        for event in _encode_part(job, task, part, batches):
            if isinstance(event, Progress):
                total.add(event)
            yield event
    except EncodersDiffer as difference:
        yield total.negative()
        exact = replace(job, encoder=job.encoder.exact())
        for event in _encode_part(exact, task, part, read_again()):
            yield replace(event, difference=str(difference)) if isinstance(event, PartDone) else event


def _encode_part(job: Job, task: Task, part: int, batches: Iterator[Batch]) -> Iterator[Progress | PartDone]:
    settings = job.settings
    tag = f".{socket.gethostname()}-{os.getpid()}"  # an abandoned attempt may still be writing
    total, num_lines = Progress(), 0
    with ExitStack() as stack:
        skipped_list = stack.enter_context(_SkippedList(skipped_file(settings.work_folder, task.number, part), tag))
        writers = [
            stack.enter_context(
                IndexedWriter(part_prefix(settings.work_folder, task.number, part, key), job.encoder.dtype, tag=tag)
            )
            for key in range(len(settings.json_keys))
        ]
        for batch in batches:
            numbers, documents, skipped = _separate_skipped(job, task, batch)
            skipped_list.add(skipped)
            for key in range(len(settings.json_keys)):
                job.encoder.check(task.number, batch.file, numbers, [values[key] for values in documents])
            progress = _write_batch(job, batch, documents, writers)
            progress.skipped = len(skipped)
            num_lines += batch.num_lines
            total.add(progress)
            yield progress
        pairs = [writer.summary() for writer in writers]
    yield PartDone(task.number, part, total, tuple(pairs), num_lines)


class _SkippedList:
    """Streams the records that a part skips to a file, which gets its name when the part is finished."""

    def __init__(self, path: str, tag: str) -> None:
        self._path = Path(path)
        self._part = Path(f"{path}{tag}.part")

    def add(self, skipped: Sequence[Skipped]) -> None:
        if skipped:
            with self._part.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(each)) + "\n" for each in skipped)

    def __enter__(self) -> _SkippedList:
        self._part.unlink(missing_ok=True)  # of an earlier process with the same id
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._part.exists():
            if kind is None:
                self._part.replace(self._path)
            else:
                self._part.unlink()


def _write_batch(
    job: Job, batch: Batch, documents: Sequence[Sequence[Value]], writers: Sequence[IndexedWriter]
) -> Progress:
    progress = Progress(documents=len(documents), text_bytes=batch.text_bytes, input_bytes=batch.input_bytes)
    for key, writer in enumerate(writers):
        where = f"--input {job.inputs[batch.file].path}"
        block = job.encoder.encode([values[key] for values in documents], where)
        writer.add_documents(block.ids, block.lengths, block.counts)
        progress.tokens += len(block.ids)
        progress.empty_documents += int((block.counts == 0).sum())
    return progress


def _separate_skipped(job: Job, task: Task, batch: Batch) -> tuple[list[int], list[list[Value]], list[Skipped]]:
    """Return the numbers and the documents of a batch, and its bad records.

    Raises:
        ConfigError: there is a bad record, and --on-error is stop.
    """
    numbers, documents, skipped = [], [], []
    for number, document in zip(batch.numbers, read_documents(batch, job.settings.json_keys), strict=True):
        if isinstance(document, BadRecord):
            skipped.append(Skipped(batch.file, number, str(document)))
        else:
            numbers.append(number)
            documents.append(document)
    if batch.damage:
        skipped.append(Skipped(batch.file, *batch.damage, onwards=True))
    if skipped and job.settings.on_error == "stop":
        first = skipped[0]
        file = job.inputs[first.file]
        start = next(span.start for span in task.spans if span.file == first.file)
        number = first.number
        if start:
            paragraphs = file.kind == "text" and job.settings.text_documents == "paragraph"
            number += lines_before(file.path, start, paragraphs=paragraphs)
        raise ConfigError(record_message("--input", file, number, first.reason, onwards=first.onwards))
    return numbers, documents, skipped


def _spill(batches: Iterator[Batch], path: str) -> str:
    """Write the batches of a part to a file; returns its path."""
    with Path(path).open("wb") as file:
        for batch in batches:
            pickle.dump(batch, file, protocol=pickle.HIGHEST_PROTOCOL)
    return path


def _read_spilled(path: str) -> Iterator[Batch]:
    """Yield the batches of a part that were written to a file."""
    with Path(path).open("rb") as file:
        while True:
            try:
                yield pickle.load(file)
            except EOFError:
                return
