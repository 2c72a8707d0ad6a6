"""Read lines, paragraphs or whole text files.

A span [start, end) contains the records that begin after the first boundary at or after ``start``, up to the first
boundary at or after ``end``: neighbouring spans neither overlap nor leave a gap, wherever a file is cut.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from megatron_ettin.data.preprocess.readers.decompress import READ_BYTES, Damaged, read_decompressed
from megatron_ettin.data.preprocess.readers.records import LARGEST_DOCUMENT_FILE, TOO_LARGE_RULE, Batch, InputFile, Span

Chunks = Iterator[tuple[bytes, int]]
"""Bytes of the content, and how many bytes of the file they take."""


def read_lines(span: Span, file: InputFile) -> Iterator[Batch]:
    """Yield the lines of a span, without blank ones."""
    form = "text" if file.kind == "text" else "json"
    number = 1
    for lines, input_bytes, reason in _split(_chunks(span, file, _line_boundary)):
        text_bytes = sum(map(len, lines)) + len(lines)
        numbers: range | list[int] = range(number, number + len(lines))
        records = lines
        if any(not line or line.isspace() for line in lines):
            numbers = [n for n, line in zip(numbers, lines, strict=True) if line and not line.isspace()]
            records = [line for line in lines if line and not line.isspace()]
        if form == "text":
            records = [line.removesuffix(b"\r") for line in records]
        number += len(lines)
        damage = (number, reason) if reason else None
        yield Batch(span.file, form, numbers, records, text_bytes, input_bytes, num_lines=len(lines), damage=damage)


def read_paragraphs(span: Span, file: InputFile) -> Iterator[Batch]:
    """Yield the paragraphs of a span: lines up to a blank one, numbered by the first of them."""
    number, first = 0, 1
    paragraph: list[bytes] = []
    for lines, input_bytes, reason in _split(_chunks(span, file, _paragraph_boundary)):
        records, numbers = [], []
        for line in lines:
            number += 1
            if line and not line.isspace():
                first = first if paragraph else number
                paragraph.append(line.removesuffix(b"\r"))
            elif paragraph:
                records.append(b"\n".join(paragraph))
                numbers.append(first)
                paragraph = []
        text_bytes = sum(map(len, lines)) + len(lines)
        damage = (number + 1, reason) if reason else None
        if damage:
            paragraph = []  # truncated by the damage
        yield Batch(span.file, "text", numbers, records, text_bytes, input_bytes, num_lines=len(lines), damage=damage)
    if paragraph:
        yield Batch(span.file, "text", [first], [b"\n".join(paragraph)], 0, 0)


def read_whole(number: int, file: InputFile) -> Iterator[Batch]:
    """Yield a file as one document; a blank file has none."""
    chunks, input_bytes, num_bytes = [], 0, 0
    damage = None
    try:
        for chunk, used in _without_mark(read_decompressed(file.path, file.compression)):
            chunks.append(chunk)
            input_bytes += used
            num_bytes += len(chunk)
            if num_bytes > LARGEST_DOCUMENT_FILE:  # the size of a compressed file or a pipe is known only now
                raise Damaged(TOO_LARGE_RULE)
    except Damaged as error:
        damage = (1, str(error))
    text = b"".join(chunks)
    records = [text] if text.strip() and not damage else []
    num_lines = text.count(b"\n")
    yield Batch(number, "text", [1] * len(records), records, len(text), input_bytes, num_lines=num_lines, damage=damage)


def lines_before(path: str, offset: int, *, paragraphs: bool) -> int:
    """Return how many lines of a file end before the span that starts at ``offset``."""
    with Path(path).open("rb") as file:
        left = _paragraph_boundary(file, offset) if paragraphs else _line_boundary(file, offset)
        file.seek(0)
        count = 0
        while left > 0 and (data := file.read(min(READ_BYTES, left))):
            count += data.count(b"\n")
            left -= len(data)
    return count


def _split(chunks: Chunks) -> Iterator[tuple[list[bytes], int, str]]:
    """Yield lines without their ends, the bytes they take on disk, and at the end the reason of damage after them."""
    open_chunks: list[bytes] = []
    input_bytes = 0
    try:
        for chunk, used in chunks:
            input_bytes += used
            lines = chunk.split(b"\n")
            if len(lines) == 1:
                open_chunks.append(chunk)
                continue
            lines[0] = b"".join([*open_chunks, lines[0]])
            open_chunks = [lines.pop()]
            yield lines, input_bytes, ""
            input_bytes = 0
    except Damaged as error:
        yield [], input_bytes, str(error)  # the unfinished line is lost to the damage
        return
    last = b"".join(open_chunks)
    if last or input_bytes:
        yield [last] if last else [], input_bytes, ""


def _chunks(span: Span, file: InputFile, boundary: Callable[[BinaryIO, int], int]) -> Chunks:
    if span.end is None:
        yield from _without_mark(read_decompressed(file.path, file.compression))
        return
    with Path(file.path).open("rb") as raw:
        start, end = boundary(raw, span.start), boundary(raw, span.end)
        raw.seek(start)
        if start == 0 and raw.read(len(BOM_UTF8)) != BOM_UTF8:
            raw.seek(0)
        while start < end and (data := raw.read(min(READ_BYTES, end - start))):
            start += len(data)
            yield data, len(data)


def _without_mark(chunks: Chunks) -> Chunks:
    """Yield the content without a byte-order mark at its start."""
    start, input_bytes = b"", 0
    for chunk, used in chunks:
        start += chunk
        input_bytes += used
        if len(start) >= len(BOM_UTF8):
            break
    yield start.removeprefix(BOM_UTF8), input_bytes
    yield from chunks


def _line_boundary(file: BinaryIO, offset: int) -> int:
    """Return where the first line begins after ``offset``; 0 and the end of the file are boundaries."""
    if offset == 0:
        return 0
    file.seek(offset)
    while data := file.read(READ_BYTES // 16):
        place = data.find(b"\n")
        if place >= 0:
            return offset + place + 1
        offset += len(data)
    return offset


def _paragraph_boundary(file: BinaryIO, offset: int) -> int:
    """Return the end of the first blank line that begins after ``offset``."""
    place = _line_boundary(file, offset)
    if offset == 0:
        return 0
    file.seek(place)
    for line in file:
        place += len(line)
        if line.isspace():
            break
    return place
