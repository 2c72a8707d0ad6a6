"""Gather a first corpus: docstrings and sources of the Python standard library, or a file of the user.

All of it is held in memory: large corpora go to preprocessing directly, which streams them.
"""

from __future__ import annotations

import ast
import io
import random
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_ettin.data.preprocess.inputs import COMPRESSIONS
from megatron_ettin.data.preprocess.texts import read_texts
from megatron_ettin.errors import ConfigError
from megatron_ettin.files import write_json_lines

KNOWN_SUFFIXES = tuple(f".{kind}{ending}" for kind in ("jsonl", "json", "parquet") for ending in ("", *COMPRESSIONS))
SMALLEST_CHARACTERS = 80
"""Shorter docstrings of the standard library are left out."""
SOURCE_CHARACTERS = 20_000
"""Source files are cut into documents of about this length, at line ends."""
PLAIN_CHARACTERS = 2_000
"""Plain text files are cut into documents of about this length, between paragraphs."""
_LEFT_OUT = frozenset({"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "encodings"})
"""Tests and tables would outweigh the rest; installed packages are not part of the library."""
_PARAGRAPH_END = re.compile(r"\n\s*\n")


@dataclass(frozen=True)
class Document:
    """A text and its source."""

    text: str
    source: str


def standard_library() -> Iterator[Document]:
    """Yield the docstrings and the sources of every module of the running Python, in a fixed order."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if _LEFT_OUT.isdisjoint(name.parts):
            source = path.read_text(encoding="utf-8", errors="replace")
            documents = module_documents(source, name.as_posix())
            yield from (document for document in documents if len(document.text) >= SMALLEST_CHARACTERS)


def module_documents(source: str, name: str) -> Iterator[Document]:
    """Yield each docstring of a module, then the source without them.

    No text is yielded twice: a text in both the training and the validation split would lower the validation loss.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # about old string escapes
            tree = ast.parse(source)
    except (SyntaxError, ValueError):  # written for another version of Python
        return
    docstring_lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                statement = node.body[0]
                docstring_lines.update(range(statement.lineno, (statement.end_lineno or statement.lineno) + 1))
                yield Document(docstring, f"{name}:{getattr(node, 'name', '')}")
    lines = [line for number, line in enumerate(io.StringIO(source), 1) if number not in docstring_lines]
    for number, part in enumerate(_join(lines, SOURCE_CHARACTERS)):
        yield Document(part, f"{name}#{number}")


def own_text(path: str) -> Iterator[Document]:
    """Yield the documents of a user's file: the "text" of .jsonl lines or .parquet rows, or plain text cut into parts.

    Raises:
        ConfigError: the file does not exist or is not text, or a line is not a JSON object with a "text".
    """
    file = Path(path)
    if not file.is_file():
        reason = "is a folder, not a file" if file.is_dir() else "there is no such file"
        raise ConfigError(f"--corpus {path}: {reason}")
    if path.endswith(KNOWN_SUFFIXES):
        yield from (Document(text, f"{file.name}:{number}") for number, text in read_texts([path], "--corpus"))
        return
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--corpus {path}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    paragraphs = (f"{paragraph}\n\n" for paragraph in _PARAGRAPH_END.split(text))
    for number, part in enumerate(_join(paragraphs, PLAIN_CHARACTERS)):
        yield Document(part.strip("\n"), f"{file.name}#{number}")


def _join(parts: Iterable[str], length: int) -> Iterator[str]:
    """Join consecutive parts to texts of at least ``length`` characters."""
    joined: list[str] = []
    num_characters = 0
    for part in parts:
        joined.append(part)
        num_characters += len(part)
        if num_characters >= length:
            yield "".join(joined)
            joined, num_characters = [], 0
    if joined:
        yield "".join(joined)


def choose_documents(documents: Iterable[Document], *, seed: int, largest_bytes: int) -> list[Document]:
    """Drop empty and repeated texts, shuffle, and keep at most ``largest_bytes`` of UTF-8."""
    different = {document.text: document for document in documents if document.text.strip()}
    chosen = list(different.values())
    random.Random(seed).shuffle(chosen)
    kept, total = [], 0
    for document in chosen:
        total += len(document.text.encode())
        if total > largest_bytes:
            break
        kept.append(document)
    return kept


def write_jsonl(documents: Iterable[Document], path: Path) -> None:
    """Write one {"text", "source"} object per line; the file appears once it is complete."""
    write_json_lines({path: ({"text": document.text, "source": document.source} for document in documents)})
