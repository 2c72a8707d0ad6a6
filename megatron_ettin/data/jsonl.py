"""Lines of JSON, plain or gzipped, with errors that name the file and the line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from megatron_ettin.config.errors import ConfigError

BLOCK_BYTES = 1 << 20
"""Text read at a time."""


@dataclass(frozen=True)
class LineBlock:
    """Some whole lines of one file, without the blank ones."""

    path: str
    numbers: tuple[int, ...]
    """Of each line in its file, from 1."""
    lines: tuple[bytes, ...]
    num_bytes: int


def check_inputs(paths: Sequence[str], flag: str) -> None:
    """Raise ConfigError where one of the files given to ``flag`` is not there; a pipe is as good as a file."""
    for path in paths:
        if not Path(path).exists():
            raise ConfigError(f"{flag} {path}: there is no such file")
        if Path(path).is_dir():
            raise ConfigError(f"{flag} {path}: is a folder, not a file")


def read_blocks(paths: Sequence[str], flag: str) -> Iterator[LineBlock]:
    """Yield the lines of the files in order; blank ones are passed over.

    Raises:
        ConfigError: a .gz is damaged.
    """
    for path in paths:
        with _open(path) as file:
            number = 1
            while lines := _read_lines(file, f"{flag} {path} from line {number} on"):
                kept = [(place, line) for place, line in enumerate(lines, number) if not line.isspace()]
                yield LineBlock(
                    path,
                    numbers=tuple(place for place, _ in kept),
                    lines=tuple(line for _, line in kept),
                    num_bytes=sum(map(len, lines)),
                )
                number += len(lines)


def parse_texts(block: LineBlock, keys: Sequence[str], flag: str) -> Iterator[list[str]]:
    """Yield the texts under ``keys`` of each line.

    Raises:
        ConfigError: a line is no JSON object with a text under each key, or the text is no valid Unicode.
    """
    for number, line in zip(block.numbers, block.lines, strict=True):
        where = f"{flag} {block.path} line {number}"
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            reason = f"{error.msg.removesuffix(' at')} after {error.pos} characters"
            raise ConfigError(f"{where}: is not JSON ({reason})") from None
        except (UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f"{where}: is not JSON ({error})") from None
        yield [_text_under(found, key, where) for key in keys]


def read_texts(path: str, flag: str) -> Iterator[tuple[int, str]]:
    """Yield line number and "text" of each line of one file; raises as the functions it is made of."""
    check_inputs([path], flag)
    for block in read_blocks([path], flag):
        for number, (text,) in zip(block.numbers, parse_texts(block, ["text"], flag), strict=True):
            yield number, text


def _text_under(found: object, key: str, where: str) -> str:
    text = found.get(key) if isinstance(found, dict) else None
    if not isinstance(text, str):
        keys = f" (its keys: {', '.join(map(str, found))})" if isinstance(found, dict) else ""
        raise ConfigError(f'{where}: is no JSON object with a text under "{key}"{keys}')
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ConfigError(f'{where}: the text under "{key}" holds half of a surrogate pair') from None
    return text


def _open(path: str) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.endswith(".gz") else Path(path).open("rb")


def _read_lines(file: IO[bytes], where: str) -> list[bytes]:
    try:
        return file.readlines(BLOCK_BYTES)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ConfigError(f"{where}: the gzip data is damaged ({error})") from None
