"""Task data shared by the suites: local folders, JSON Lines files, and data sets of the Hugging Face Hub."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_ettin.cli import suggestion
from megatron_ettin.errors import ConfigError, one_line

Row = Mapping[str, Any]
"""One JSON object, by column."""


def find_task_folders(data: Path, suite: str, names: Sequence[str]) -> list[Path]:
    """Return the folders DIR/SUITE/NAME of the given tasks, or of all tasks if no name is given.

    Raises:
        ConfigError: a folder or task does not exist.
    """
    root = data / suite
    if not root.is_dir():
        raise ConfigError(f"--data {data}: has no folder {suite} with one folder per task and train.jsonl in each")
    folders = {path.name: path for path in sorted(root.iterdir()) if path.is_dir()}
    if not folders:
        raise ConfigError(f"--data {data}: {root} contains no task folders")
    for name in names:
        if name not in folders:
            known = ", ".join(folders)
            raise ConfigError(f"--tasks {name}: is not in {root}, which has {known}{suggestion(name, folders)}")
    return [folders[name] for name in names or folders]


def read_rows(path: Path, *, may_be_empty: bool = False) -> Iterator[tuple[str, Row]]:
    """Yield ``FILE:LINE`` and the JSON object of each line that is not blank; a file ending in .gz is decompressed.

    Raises:
        ConfigError: the file is empty or not UTF-8, or a line is not a JSON object; the message names file and line.
    """
    is_empty = True
    for number, line in enumerate(_read_text_file(path).split("\n"), start=1):
        if not line.strip():
            continue
        is_empty = False
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{place}: is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{place}: is not a JSON object")
        yield place, row
    if is_empty and not may_be_empty:
        raise ConfigError(f"{path}: is empty")


def _read_text_file(path: Path) -> str:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error


def read_column(row: Row, column: str, place: str) -> Any:
    """Return a column's value.

    Raises:
        ConfigError: the row does not have the column.
    """
    if column not in row:
        raise ConfigError(f"{place}: has no {column!r}, only {column_names(row)}")
    return row[column]


def read_text(row: Row, column: str, place: str) -> str:
    """Return a column's text.

    Raises:
        ConfigError: the row does not have the column, or its value is not a string.
    """
    value = read_column(row, column, place)
    if not isinstance(value, str):
        raise ConfigError(f"{place}: {column} must be a string, and is {json.dumps(value)[:40]}")
    return value


def column_names(row: Row) -> str:
    """Return a row's column names for a message."""
    return ", ".join(map(repr, row)) or "no columns"


def ask_hub(request: Callable[[], Any], what: str) -> Any:
    """Load from the Hub, or from its local cache, with the ``datasets`` library.

    Args:
        request: calls the library.
        what: the start of the error message: flag, value and, where it helps, the data set.

    Raises:
        ConfigError: the request failed; the message is one line.
        ModuleNotFoundError: ``datasets`` is not installed.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        return request()
    except Exception as error:  # the library raises the errors of its transport: connection, timeout, offline, missing
        raise ConfigError(
            f"{what} cannot be loaded from the Hub ({one_line(error)}); local files are given by --data"
        ) from error
