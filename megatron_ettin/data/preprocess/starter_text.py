"""Text to begin with: the Python standard library's own, which every machine has, or a file of the user's.

All of it is held in memory: this is for a first corpus, not for one that needs preprocessing in a stream.
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

from megatron_ettin.data.preprocess.texts import read_texts
from megatron_ettin.errors import ConfigError
from megatron_ettin.files import write_json_lines

KNOWN_ENDINGS = tuple(f".{kind}{packed}" for kind in ("jsonl", "json", "parquet") for packed in ("", ".gz", ".zst"))
SMALLEST_CHARACTERS = 80
"""A docstring shorter than this teaches little."""
SOURCE_CHARACTERS = 20_000
"""A source file is cut into documents of about this length, at line ends."""
PLAIN_CHARACTERS = 2_000
"""A file of plain text is cut into documents of about this length, between paragraphs."""
_LEFT_OUT = frozenset({"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "encodings"})
"""Tests and tables would drown the rest; what pip installed is not part of the library."""
_PARAGRAPH_END = re.compile(r"\n\s*\n")


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
            source = path.read_text(encoding="utf-8", errors="replace")
            found = module_documents(source, name.as_posix())
            yield from (document for document in found if len(document.text) >= SMALLEST_CHARACTERS)


def module_documents(source: str, name: str) -> Iterator[Document]:
    """Yield each docstring of a module, then the source without them.

    No text comes twice: the same words in training and in validation would flatter the validation loss.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of old escapes in strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError):  # a file for another version of Python
        return
    taken: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                statement = node.body[0]
                taken.update(range(statement.lineno, (statement.end_lineno or statement.lineno) + 1))
                yield Document(docstring, f"{name}:{getattr(node, 'name', '')}")
    lines = [line for number, line in enumerate(io.StringIO(source), 1) if number not in taken]
    for number, part in enumerate(_join(lines, SOURCE_CHARACTERS)):
        yield Document(part, f"{name}#{number}")


def own_text(path: str) -> Iterator[Document]:
    """Yield the documents of a user's file: the "text" of .jsonl lines or .parquet rows, or plain text in parts.

    Raises:
        ConfigError: there is no such file, it is not text, or a line is no JSON object with a "text".
    """
    file = Path(path)
    if not file.is_file():
        reason = "is a folder, not a file" if file.is_dir() else "there is no such file"
        raise ConfigError(f"--corpus {path}: {reason}")
    if any(path.endswith(ending) for ending in KNOWN_ENDINGS):
        yield from (Document(text, f"{file.name}:{number}") for number, text in read_texts([path], "--corpus"))
        return
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--corpus {path}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    paragraphs = (f"{paragraph}\n\n" for paragraph in _PARAGRAPH_END.split(text))
    for number, part in enumerate(_join(paragraphs, PLAIN_CHARACTERS)):
        yield Document(part.strip("\n"), f"{file.name}#{number}")


def _join(parts: Iterable[str], enough: int) -> Iterator[str]:
    """Join parts until there are ``enough`` characters."""
    joined: list[str] = []
    length = 0
    for part in parts:
        joined.append(part)
        length += len(part)
        if length >= enough:
            yield "".join(joined)
            joined, length = [], 0
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
    """Write one {"text", "source"} object a line; the file appears when it is whole."""
    write_json_lines({path: ({"text": document.text, "source": document.source} for document in documents)})
