"""From input files to documents: read records with the reader of the file's format, and parse them.

A document is one value for each key: a text, a text split into sentences, or token ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from megatron_ettin.data.preprocess.readers.records import Batch, InputFile, Span, Task

Value = str | list[str] | NDArray[np.integer]
"""A text, a text split into sentences, or token ids."""


class BadRecord(ValueError):
    """A record that is not a document; the message is the reason."""


def read_task(task: Task, inputs: Sequence[InputFile], keys: Sequence[str], text_documents: str) -> Iterator[Batch]:
    """Yield all records of a task in order."""
    for span in task.spans:
        yield from read_span(span, inputs[span.file], keys, text_documents)


def read_span(span: Span, file: InputFile, keys: Sequence[str], text_documents: str) -> Iterator[Batch]:
    """Yield the records of a span. A reader, and the library it needs, is imported when its format occurs."""
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


def read_documents(batch: Batch, keys: Sequence[str]) -> Iterator[list[Value] | BadRecord]:
    """Yield the document of each record, or the reason why it is not one."""
    parse = {"json": _from_json, "text": _from_text, "values": _from_values}[batch.form]
    for record in batch.records:
        try:
            yield parse(record, keys)
        except BadRecord as error:
            yield error


def record_message(flag: str, file: InputFile, number: int, reason: str, *, onwards: bool = False) -> str:
    """Return the error message about one record of a file, or about all records from it on."""
    place = f"from {file.record_name} {number} on" if onwards else f"{file.record_name} {number}"
    return f"{flag} {file.path} {place}: {reason}"


def _from_json(line: bytes, keys: Sequence[str]) -> list[Value]:
    try:
        content = orjson.loads(line)
    except orjson.JSONDecodeError:
        content = _parse_slowly(line)
        return [_json_text(content, key) for key in keys]
    try:
        values = [content[key] for key in keys]
    except (KeyError, TypeError, IndexError):
        values = [None]
    for value in values:
        if type(value) is not str:  # the common case passes with one comparison
            return [_json_text(content, key) for key in keys]
    return values


def _parse_slowly(line: bytes) -> Any:
    """Parse what orjson rejects: it accepts neither NaN nor lone surrogates, and its messages are less clear."""
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        reason = f"{error.msg.removesuffix(' at')} after {error.pos} characters"
        raise BadRecord(f"is not JSON ({reason})") from None
    except UnicodeDecodeError as error:
        raise BadRecord(_not_utf8(error)) from None
    except (RecursionError, ValueError) as error:
        raise BadRecord(f"is not JSON ({error})") from None


def _json_text(content: object, key: str) -> Value:
    text = content.get(key) if isinstance(content, dict) else None
    parts: list[Any] = text if isinstance(text, list) else [text]
    for part in parts:
        if not isinstance(part, str):
            keys = f" (its keys: {', '.join(map(str, content))})" if isinstance(content, dict) else ""
            raise BadRecord(f'is not a JSON object with a text under "{key}"{keys}')
        _refuse_surrogates(part, key)
    return parts if isinstance(text, list) else parts[0]


def _from_text(record: bytes, keys: Sequence[str]) -> list[Value]:
    return [_decode(record)] * len(keys)


def _from_values(record: Sequence[Any], keys: Sequence[str]) -> list[Value]:
    values: list[Value] = []
    for value, key in zip(record, keys, strict=True):
        if isinstance(value, bytes):
            values.append(_decode(value))
        elif isinstance(value, str):
            _refuse_surrogates(value, key)
            values.append(value)
        elif isinstance(value, np.ndarray):
            values.append(value)
        else:
            raise BadRecord(f'has neither a text nor token ids under "{key}"')
    return values


def _decode(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise BadRecord(_not_utf8(error)) from None


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"is not UTF-8 ({error.reason} at byte {error.start})"


def _refuse_surrogates(text: str, key: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadRecord(f'the text under "{key}" contains half of a surrogate pair') from None
