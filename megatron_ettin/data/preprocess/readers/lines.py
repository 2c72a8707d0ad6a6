"""Lines and paragraphs of a file, or of a stretch of it that begins anywhere.

A stretch [start, end) holds what begins behind the first boundary at or after ``start`` and up to the first boundary
at or after ``end``, so neighbouring stretches share nothing and leave out nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from megatron_ettin.data.preprocess.readers.decompress import READ_BYTES, Damaged, read_unpacked
from megatron_ettin.data.preprocess.readers.records import LARGEST_DOCUMENT_FILE, TOO_LARGE_RULE, Batch, InputFile, Span

Chunks = Iterator[tuple[bytes, int]]
"""Bytes of the content, and how many of the file's on disk they took."""


def read_lines(span: Span, file: InputFile) -> Iterator[Batch]:
    """Yield the lines of a stretch that are not blank."""
    form = "text" if file.kind == "text" else "json"
    number = 1
    chunks = _chunks(span, file, _line_boundary)
    for lines, taken, broken in _split(chunks):
        text_bytes = sum(map(len, lines)) + len(lines)
        numbers: range | list[int] = range(number, number + len(lines))
        kept = lines
        if any(not line or line.isspace() for line in lines):
            numbers = [n for n, line in zip(numbers, lines, strict=True) if line and not line.isspace()]
            kept = [line for line in lines if line and not line.isspace()]
        if form == "text":
            kept = [line.removesuffix(b"\r") for line in kept]
        number += len(lines)
        told = (number, broken) if broken else None
        yield Batch(span.file, form, numbers, kept, text_bytes, taken, num_lines=len(lines), broken=told)


def read_paragraphs(span: Span, file: InputFile) -> Iterator[Batch]:
    """Yield the paragraphs of a stretch: lines up to a blank one, numbered by the first of them."""
    number, first = 0, 1
    open_lines: list[bytes] = []
    for lines, taken, broken in _split(_chunks(span, file, _paragraph_boundary)):
        records, numbers = [], []
        for line in lines:
            number += 1
            if line and not line.isspace():
                first = first if open_lines else number
                open_lines.append(line.removesuffix(b"\r"))
            elif open_lines:
                records.append(b"\n".join(open_lines))
                numbers.append(first)
                open_lines = []
        text_bytes = sum(map(len, lines)) + len(lines)
        told = (number + 1, broken) if broken else None
        if broken:
            open_lines = []  # cut off by the damage
        yield Batch(span.file, "text", numbers, records, text_bytes, taken, num_lines=len(lines), broken=told)
    if open_lines:
        yield Batch(span.file, "text", [first], [b"\n".join(open_lines)], 0, 0)


def read_whole(number: int, file: InputFile) -> Iterator[Batch]:
    """Yield a file as one document; a blank one is none."""
    chunks, taken, held = [], 0, 0
    broken = None
    try:
        for chunk, used in read_unpacked(file.path, file.compression):
            chunks.append(chunk)
            taken += used
            held += len(chunk)
            if held > LARGEST_DOCUMENT_FILE:  # its size on the disk did not tell
                raise Damaged(TOO_LARGE_RULE)
    except Damaged as error:
        broken = (1, str(error))
    text = b"".join(chunks)
    kept = [text] if text.strip() and not broken else []
    yield Batch(number, "text", [1] * len(kept), kept, len(text), taken, num_lines=text.count(b"\n"), broken=broken)


def lines_before(path: str, offset: int, *, paragraphs: bool) -> int:
    """Return how many lines of a file end before the stretch that begins at ``offset``."""
    with Path(path).open("rb") as file:
        left = _paragraph_boundary(file, offset) if paragraphs else _line_boundary(file, offset)
        file.seek(0)
        count = 0
        while left > 0 and (data := file.read(min(READ_BYTES, left))):
            count += data.count(b"\n")
            left -= len(data)
    return count


def _split(chunks: Chunks) -> Iterator[tuple[list[bytes], int, str]]:
    """Yield whole lines without their ends, the bytes they took on disk, and with the last what is broken behind it."""
    open_chunks: list[bytes] = []
    taken = 0
    try:
        for chunk, used in chunks:
            taken += used
            lines = chunk.split(b"\n")
            if len(lines) == 1:
                open_chunks.append(chunk)
                continue
            lines[0] = b"".join([*open_chunks, lines[0]])
            open_chunks = [lines.pop()]
            yield lines, taken, ""
            taken = 0
    except Damaged as error:
        yield [], taken, str(error)  # the line that was begun is part of the damage
        return
    last = b"".join(open_chunks)
    if last or taken:
        yield [last] if last else [], taken, ""


def _chunks(span: Span, file: InputFile, boundary: Callable[[BinaryIO, int], int]) -> Chunks:
    if span.end is None:
        yield from read_unpacked(file.path, file.compression)
        return
    with Path(file.path).open("rb") as raw:
        start, end = boundary(raw, span.start), boundary(raw, span.end)
        raw.seek(start)
        while start < end and (data := raw.read(min(READ_BYTES, end - start))):
            start += len(data)
            yield data, len(data)


def _line_boundary(file: BinaryIO, offset: int) -> int:
    """Return where the first line begins that does so behind ``offset``; 0 and the file's end are boundaries."""
    if offset == 0:
        return 0
    file.seek(offset)
    while data := file.read(READ_BYTES // 16):
        found = data.find(b"\n")
        if found >= 0:
            return offset + found + 1
        offset += len(data)
    return offset


def _paragraph_boundary(file: BinaryIO, offset: int) -> int:
    """Return the place behind the first blank line that begins behind ``offset``."""
    place = _line_boundary(file, offset)
    if offset == 0:
        return 0
    file.seek(place)
    for line in file:
        place += len(line)
        if line.isspace():
            break
    return place
