"""What suites share of local data: a folder a task, and files of JSON lines."""

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


def find_task_folders(data: Path, suite: str, wanted: Sequence[str]) -> list[Path]:
    """Return the folders of the tasks wanted, or of all, in DIR/SUITE.

    Raises:
        ConfigError: there is no such folder or task.
    """
    root = data / suite
    if not root.is_dir():
        raise ConfigError(f"--data {data}: has no folder {suite}, with a folder a task and train.jsonl in each")
    found = {path.name: path for path in sorted(root.iterdir()) if path.is_dir()}
    if not found:
        raise ConfigError(f"--data {data}: {root} holds no folder of a task")
    for name in wanted:
        if name not in found:
            known = ", ".join(found)
            raise ConfigError(f"--tasks {name}: is not in {root}, which has {known}{suggestion(name, found)}")
    return [found[name] for name in wanted or found]


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield ``FILE:LINE`` and the object of each line that is not blank; FILE may be packed as .gz.

    Raises:
        ConfigError: it is no UTF-8 text, or a line is no JSON object; the message names file and line.
    """
    for number, line in enumerate(_read_whole(path).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{place}: is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{place}: holds no JSON object")
        yield place, row


def _read_whole(path: Path) -> str:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error


def read_text(row: Row, column: str, place: str) -> str:
    """Return a column's text.

    Raises:
        ConfigError: the row has no such column, or it is no text.
    """
    if column not in row:
        raise ConfigError(f"{place}: has no {column!r}, only {named_columns(row)}")
    if not isinstance(row[column], str):
        raise ConfigError(f"{place}: {column} must be a string, and is {json.dumps(row[column])[:40]}")
    return str(row[column])


def named_columns(row: Row) -> str:
    """Return a row's columns for a message."""
    return ", ".join(map(repr, row)) or "no columns"


def ask_hub(question: Callable[[], Any], refusal: Callable[[str], str]) -> Any:
    """Ask the Hub, or the local cache of an earlier time, by the library ``datasets``.

    Args:
        question: what to ask.
        refusal: makes the message of the reason why there is no answer.

    Raises:
        ConfigError: whatever went wrong, in one line.
        ModuleNotFoundError: ``datasets`` is not installed.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        return question()
    except Exception as error:  # the library raises what its transport raises: connection, timeout, offline, missing
        raise ConfigError(refusal(one_line(error))) from error
