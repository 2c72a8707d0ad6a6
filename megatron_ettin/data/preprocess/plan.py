"""Cut the inputs into tasks. The cut depends on the inputs alone, never on the number of workers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from megatron_ettin.data.preprocess.readers.records import LARGEST_DOCUMENT_FILE, TOO_LARGE_RULE, InputFile, Span, Task
from megatron_ettin.errors import ConfigError

SMALLEST_PART_BYTES = 32 << 20
LARGEST_PART_BYTES = 1 << 30
MOST_PARTS = 4096
"""Parts grow with the inputs, so that there are about this many at most."""
EXPANSION = {"": 1, "gz": 4, "zst": 4, "bz2": 4, "xz": 4}
"""Rough ratio of text to file size; used only to balance work."""


def choose_part_bytes(inputs: Sequence[InputFile]) -> int:
    """Return the bytes of text in a part."""
    total = sum(map(_weight, inputs))
    return min(max(SMALLEST_PART_BYTES, -(-total // MOST_PARTS)), LARGEST_PART_BYTES)


def plan_tasks(inputs: Sequence[InputFile], part_bytes: int, text_documents: str) -> list[Task]:
    """Cut the inputs into tasks of about ``part_bytes``.

    A large file is cut into several tasks where that is possible, else it is one task of several parts; small files
    share a task.

    Raises:
        ConfigError: a text file that is one document is too large for that.
    """
    groups: list[tuple[list[Span], int]] = []
    open_group: list[Span] = []
    open_weight = 0
    for index, file in enumerate(inputs):
        is_document = file.kind == "text" and text_documents == "file"
        weight = _weight(file)
        if is_document and weight > LARGEST_DOCUMENT_FILE:
            raise ConfigError(f"--input {file.path}: {TOO_LARGE_RULE}")
        if open_group and open_weight + weight > part_bytes:
            groups.append((open_group, open_weight))
            open_group, open_weight = [], 0
        if file.can_be_cut and not is_document and weight > part_bytes:
            groups += [([span], (span.end or 0) - span.start) for span in _cut(index, file, part_bytes)]
        else:
            open_group.append(Span(index, 0, None))
            open_weight += weight
    if open_group:
        groups.append((open_group, open_weight))
    return [Task(number, tuple(spans), weight) for number, (spans, weight) in enumerate(groups)]


def share_of(tasks: Sequence[Task], shard_index: int, num_shards: int) -> list[Task]:
    """Return the tasks of one of several machines: consecutive ones, so that the shares in order are all tasks.

    A task belongs to the machine whose range of the total weight contains the task's middle.
    """
    total = max(1, sum(task.weight for task in tasks))
    share, before = [], 0
    for task in tasks:
        middle = 2 * before + task.weight
        if min(middle * num_shards // (2 * total), num_shards - 1) == shard_index:
            share.append(task)
        before += task.weight
    return share


def _weight(file: InputFile) -> int:
    return file.num_bytes * EXPANSION[file.compression]


def _cut(index: int, file: InputFile, part_bytes: int) -> list[Span]:
    count = -(-file.num_bytes // part_bytes)
    edges = [file.num_bytes * place // count for place in range(count + 1)]
    return [Span(index, start, end) for start, end in pairwise(edges)]
