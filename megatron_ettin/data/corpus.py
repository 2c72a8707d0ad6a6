"""Real text that every machine has: the sources and docstrings of Python's standard library."""

from __future__ import annotations

import ast
import json
import random
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_ettin.config.errors import ConfigError

SMALLEST_CHARACTERS = 80
"""Shorter texts teach little."""
LONGEST_CHARACTERS = 20_000
"""A source file is cut into documents of about this length, at line ends."""
_LEFT_OUT = frozenset({"test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__", "encodings"})
"""Tests and tables would drown the rest; what pip installed is not part of the library."""


@dataclass(frozen=True)
class Document:
    """One text and where it is from."""

    text: str
    source: str


def standard_library() -> Iterator[Document]:
    """Yield the docstrings and the sources of every module of the running Python, in a fixed order."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if _LEFT_OUT.isdisjoint(name.parts):
            yield from _module_documents(path.read_text(encoding="utf-8", errors="replace"), str(name))


def _module_documents(source: str, name: str) -> Iterator[Document]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # a file for another version of Python
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield Document(docstring, f"{name}:{getattr(node, 'name', '')}")
    for number, part in enumerate(_cut_at_lines(source)):
        yield Document(part, f"{name}#{number}")


def _cut_at_lines(text: str) -> Iterator[str]:
    lines: list[str] = []
    length = 0
    for line in text.splitlines(keepends=True):
        lines.append(line)
        length += len(line)
        if length >= LONGEST_CHARACTERS:
            yield "".join(lines)
            lines, length = [], 0
    if lines:
        yield "".join(lines)


def text_file(path: str) -> Iterator[Document]:
    """Yield the documents of a user's own file: the "text" of each line of a .jsonl, or the paragraphs of any other.

    Raises:
        ConfigError: there is no such file, or it is not text.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"--corpus {path}: there is no such file")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"--corpus {path}: is not UTF-8 text") from None
    if file.suffix != ".jsonl":
        yield from (Document(part.strip(), f"{file.name}#{i}") for i, part in enumerate(text.split("\n\n")))
        return
    for number, line in enumerate(text.splitlines(), 1):
        try:
            yield Document(json.loads(line)["text"], f"{file.name}:{number}")
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f'--corpus {path} line {number}: is no JSON object with a "text"') from None


def choose_documents(documents: Iterable[Document], *, seed: int, largest_bytes: int) -> list[Document]:
    """Drop short and repeated texts, shuffle, and keep at most ``largest_bytes`` of UTF-8."""
    different = {document.text: document for document in documents if len(document.text) >= SMALLEST_CHARACTERS}
    chosen = list(different.values())
    random.Random(seed).shuffle(chosen)
    kept, total = [], 0
    for document in chosen:
        total += len(document.text.encode("utf-8", errors="replace"))
        if total > largest_bytes:
            break
        kept.append(document)
    return kept


def write_jsonl(documents: Iterable[Document], path: Path) -> None:
    """Write one {"text", "source"} object a line; the file appears when it is whole."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        for document in documents:
            file.write(json.dumps({"text": document.text, "source": document.source}) + "\n")
    part.replace(path)
