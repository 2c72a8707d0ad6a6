"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Hand out a path beside ``path`` to write to, and move it there when the block ends; drop it when it raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json_lines(files: Mapping[Path, Iterable[Mapping[str, Any]]]) -> None:
    """Write each file's rows, a line each; the files appear when all are whole."""
    with ExitStack() as stack:
        partials = {path: stack.enter_context(whole_file(path)) for path in files}
        for path, rows in files.items():
            with partials[path].open("w", encoding="utf-8") as file:
                file.writelines(f"{json.dumps(row)}\n" for row in rows)
