"""One task from its records to the files of its parts; runs in whatever process an executor gives it."""

from __future__ import annotations

import json
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType

from megatron_ettin.data.corpus.indexed_writer import IndexedWriter
from megatron_ettin.data.corpus.manifest import Part
from megatron_ettin.data.preprocess.block_encoder import BlockEncoder
from megatron_ettin.data.preprocess.documents import BadRecord, Value, read_documents
from megatron_ettin.data.preprocess.readers.dispatch import read_task
from megatron_ettin.data.preprocess.readers.lines import lines_before
from megatron_ettin.data.preprocess.readers.records import Batch, InputFile, Task
from megatron_ettin.data.preprocess.settings import PreprocessSettings, Progress
from megatron_ettin.data.preprocess.texts import told
from megatron_ettin.errors import ConfigError


@dataclass(frozen=True)
class Job:
    """All that a worker needs."""

    settings: PreprocessSettings
    inputs: Sequence[InputFile]
    part_bytes: int
    encoder: BlockEncoder


@dataclass(frozen=True)
class Skipped:
    """A record that was left out; its number counts from the begin of the task's stretch of the file."""

    file: int
    number: int
    reason: str
    onwards: bool = False


@dataclass(frozen=True)
class PartDone:
    """A part lies whole under its name."""

    task: int
    part: int
    progress: Progress
    """Of the whole part."""
    pairs: tuple[Part, ...]
    """One for each key."""
    num_lines: int


@dataclass(frozen=True)
class Lent:
    """The records of a part lie in a file, for another worker to encode."""

    task: int
    part: int
    path: str


@dataclass(frozen=True)
class TaskEnded:
    """All parts of a task have been encoded or lent."""

    task: int
    num_parts: int


Event = Progress | PartDone | Lent | TaskEnded


def part_prefix(folder: str, task: int, part: int, key_number: int) -> str:
    """Return the prefix of the pair that holds one part for one key."""
    return f"{folder}/{task:06d}-{part:06d}-{key_number}"


def skipped_file(folder: str, task: int, part: int) -> str:
    """Return the file that lists what a part left out; there is none where it left out nothing."""
    return f"{folder}/{task:06d}-{part:06d}.skipped.jsonl"


def read_skipped(path: Path) -> Iterator[Skipped]:
    """Yield what such a file lists."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield Skipped(**json.loads(line))


def process_task(
    job: Job, task: Task, done: frozenset[int] = frozenset(), may_lend: Callable[[], bool] = lambda: False
) -> Iterator[Event]:
    """Encode a task, and tell after every batch how much was done.

    Args:
        job: what to do in general.
        task: what to do.
        done: parts of it that are there already.
        may_lend: asked before each part: whether another worker is waiting for something to do.

    Raises:
        ConfigError: a record is no document, and such are not to be skipped.
        OSError: a file cannot be read or written.
    """
    settings = job.settings
    batches = read_task(task, job.inputs, settings.json_keys, settings.text_documents)
    first = next(batches, None)
    part = 0
    while first is not None or part == 0:
        records = _Stretch(first, batches, job.part_bytes)
        if part in done:
            for _ in records:
                pass
        elif first is not None and may_lend():
            yield Lent(task.number, part, _spill(records, f"{settings.work_folder}/{task.number:06d}-{part:06d}.lent"))
        else:
            yield from encode_part(job, task, part, records)
        first = records.following
        part += 1
    yield TaskEnded(task.number, part)


class _Stretch:
    """The batches of one part; afterwards ``following`` is the first batch behind it."""

    def __init__(self, first: Batch | None, batches: Iterator[Batch], part_bytes: int) -> None:
        self._first, self._batches, self._part_bytes = first, batches, part_bytes
        self.following: Batch | None = None

    def __iter__(self) -> Iterator[Batch]:
        taken = 0
        for batch in chain([self._first] if self._first else [], self._batches):
            if taken >= self._part_bytes:
                self.following = batch
                return
            yield batch
            taken += batch.text_bytes


def encode_part(job: Job, task: Task, part: int, batches: Iterator[Batch] | _Stretch) -> Iterator[Progress | PartDone]:
    """Write the pairs of one part, one for each key."""
    settings = job.settings
    tag = f".{socket.gethostname()}-{os.getpid()}"  # where an attempt that was given up may still be writing
    total, num_lines = Progress(), 0
    with ExitStack() as stack:
        listed = stack.enter_context(_SkippedList(Path(skipped_file(settings.work_folder, task.number, part)), tag))
        writers = [
            stack.enter_context(
                IndexedWriter(part_prefix(settings.work_folder, task.number, part, key), job.encoder.dtype, tag=tag)
            )
            for key in range(len(settings.json_keys))
        ]
        for batch in batches:
            documents, left_out = _keep_good(job, task, batch)
            listed.add(left_out)
            step = _write_batch(job, batch, documents, writers)
            step.skipped = len(left_out)
            num_lines += batch.num_lines
            total.add(step)
            yield step
        pairs = [writer.summary() for writer in writers]
    yield PartDone(task.number, part, total, tuple(pairs), num_lines)


class _SkippedList:
    """Writes down what a part leaves out, however much it is; the file has its name when the part is whole."""

    def __init__(self, path: Path, tag: str) -> None:
        self._path = path
        self._part = path.with_name(f"{path.name}{tag}.part")

    def add(self, skipped: Sequence[Skipped]) -> None:
        if skipped:
            with self._part.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(each)) + "\n" for each in skipped)

    def __enter__(self) -> _SkippedList:
        self._part.unlink(missing_ok=True)  # of a process of the same number
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
    step = Progress(documents=len(documents), text_bytes=batch.text_bytes, input_bytes=batch.input_bytes)
    for key, writer in enumerate(writers):
        where = f"--input {job.inputs[batch.file].path}"
        block = job.encoder.encode([values[key] for values in documents], where)
        writer.add_documents(block.ids, block.lengths, block.counts)
        step.tokens += len(block.ids)
        step.empty_documents += int((block.counts == 0).sum())
    return step


def _keep_good(job: Job, task: Task, batch: Batch) -> tuple[list[list[Value]], list[Skipped]]:
    """Return the documents of a batch, and what is none where such is to be skipped."""
    documents, skipped = [], []
    for number, found in zip(batch.numbers, read_documents(batch, job.settings.json_keys), strict=True):
        if isinstance(found, BadRecord):
            skipped.append(Skipped(batch.file, number, str(found)))
        else:
            documents.append(found)
    if batch.broken:
        skipped.append(Skipped(batch.file, *batch.broken, onwards=True))
    if skipped and job.settings.on_error == "stop":
        first = skipped[0]
        file = job.inputs[first.file]
        start = next(span.start for span in task.spans if span.file == first.file)
        number = first.number
        if start:
            number += lines_before(file.path, start, paragraphs=file.kind == "text" and _by_paragraph(job))
        raise ConfigError(told("--input", file, number, first.reason, onwards=first.onwards))
    return documents, skipped


def _by_paragraph(job: Job) -> bool:
    return job.settings.text_documents == "paragraph"


def _spill(batches: _Stretch, path: str) -> str:
    with Path(path).open("wb") as file:
        for batch in batches:
            pickle.dump(batch, file, protocol=pickle.HIGHEST_PROTOCOL)
    return path


def read_lent(path: str) -> Iterator[Batch]:
    """Yield the batches of a lent part; the file goes away behind the last."""
    with Path(path).open("rb") as file:
        while True:
            try:
                yield pickle.load(file)
            except EOFError:
                break
    Path(path).unlink()
