"""What a record says: its text or its ready token ids under each key, or why it says nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from megatron_ettin.data.preprocess.readers.records import Batch

Value = str | list[str] | NDArray[np.integer]
"""A text, a text that comes in sentences, or token ids."""


class BadRecord(ValueError):
    """A record that is no document; the message is the reason."""


def read_documents(batch: Batch, keys: Sequence[str]) -> Iterator[list[Value] | BadRecord]:
    """Yield of each record its values under the keys, or what is wrong with it."""
    read = {"json": _from_json, "text": _from_text, "values": _from_values}[batch.form]
    for record in batch.records:
        try:
            yield read(record, keys)
        except BadRecord as error:
            yield error


def _from_json(line: bytes, keys: Sequence[str]) -> list[Value]:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        found = _parse_slowly(line)
        return [_json_text(found, key) for key in keys]
    try:
        values = [found[key] for key in keys]
    except (KeyError, TypeError, IndexError):
        values = [None]
    for value in values:
        if type(value) is not str:  # the usual case passes in one comparison
            return [_json_text(found, key) for key in keys]
    return values


def _parse_slowly(line: bytes) -> Any:
    """Parse what the fast parser refuses: it takes no NaN and no lone surrogates, and its messages are less clear."""
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        reason = f"{error.msg.removesuffix(' at')} after {error.pos} characters"
        raise BadRecord(f"is not JSON ({reason})") from None
    except UnicodeDecodeError as error:
        raise BadRecord(_not_utf8(error)) from None
    except (RecursionError, ValueError) as error:
        raise BadRecord(f"is not JSON ({error})") from None


def _json_text(found: object, key: str) -> Value:
    text = found.get(key) if isinstance(found, dict) else None
    parts: list[Any] = text if isinstance(text, list) else [text]
    for part in parts:
        if not isinstance(part, str):
            keys = f" (its keys: {', '.join(map(str, found))})" if isinstance(found, dict) else ""
            raise BadRecord(f'is no JSON object with a text under "{key}"{keys}')
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
            raise BadRecord(f'the text under "{key}" holds half of a surrogate pair') from None
