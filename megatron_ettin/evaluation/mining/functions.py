"""Near-identical functions, as Allamanis 2019 (arXiv:1812.06469) finds them, the method that CodeSearchNet used.

Two chunks of code are near-identical when the sets of their words (identifiers and literals) have a Jaccard similarity
of at least 0.8 and the multisets one of at least 0.7.
"""

from __future__ import annotations

import ast
import hashlib
import math
import re
import textwrap
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SET_SIMILARITY = 0.8
MULTISET_SIMILARITY = 0.7

_WORD = re.compile(r"\w+")


def keep_different(codes: Sequence[str]) -> list[int]:
    """Return the indices of codes that are near-identical to none kept before them.

    Sets with a Jaccard similarity of t share one of the rarest len - ceil(t * len) + 1 words of each (prefix filter:
    Chaudhuri et al. 2006), so that few pairs are ever compared, and none is missed.
    """
    words = [Counter(_WORD.findall(code)) for code in codes]
    frequency = Counter(word for counts in words for word in counts)
    kept: list[int] = []
    kept_by_word: dict[str, list[int]] = defaultdict(list)
    for index, counts in enumerate(words):
        rare_first = sorted(counts, key=lambda word: (frequency[word], word))
        prefix = rare_first[: len(counts) - math.ceil(SET_SIMILARITY * len(counts)) + 1]
        candidates = {other for word in prefix for other in kept_by_word[word]}
        if any(are_near(counts, words[other]) for other in candidates):
            continue
        kept.append(index)
        for word in prefix:
            kept_by_word[word].append(index)
    return kept


def are_near(first: Counter[str], second: Counter[str]) -> bool:
    """Whether two bags of words are near-identical."""
    shared = len(first.keys() & second.keys())
    if shared < SET_SIMILARITY * (len(first) + len(second) - shared):
        return False
    return (first & second).total() >= MULTISET_SIMILARITY * (first | second).total()


FEWEST_WORDS, MOST_WORDS = 3, 256
FEWEST_LINES = 3
SMALLEST_SHARE_OF_LETTERS = 0.6
"""Of the characters of a paragraph that are no spaces; below it is a table, a formula or a call."""

_FOREIGN = re.compile(r"https?:|www\.|<[a-zA-Z/][^>]*>")
_SPACES = re.compile(r"\s+")
_PARAGRAPH_END = re.compile(r"\n\s*\n")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class MinedPair:
    """A query, the function that answers it, and where it stands."""

    query: str
    positive: str
    file: str
    """Path from the source's folder on, the same on every machine: json/decoder.py."""
    function: str
    """Name in the file: JSONDecoder.decode."""

    @property
    def order(self) -> str:
        """A hash that puts pairs in an order that has nothing to do with what they are."""
        return hash_text(f"{self.file}:{self.function}:{self.query}")


def hash_text(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def mine_source(source: str, file: str) -> Iterator[MinedPair]:
    """Yield the pairs of one file that pass the filters, in its order; none where it is no Python of this version."""
    if "test" in file.lower():
        return
    try:
        with warnings.catch_warnings(action="ignore"):  # of old escapes in strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    lines = source.split("\n")
    for name, function in _functions(tree, ""):
        paragraph = first_paragraph(ast.get_docstring(function) or "")
        if is_query(paragraph) and is_wanted(function):
            code = _without_docstring(function, lines)
            if _count_lines(code) >= FEWEST_LINES:
                yield MinedPair(paragraph, code, file, name)


def first_paragraph(docstring: str) -> str:
    """Return a docstring up to its first empty line, on one line."""
    return _SPACES.sub(" ", _PARAGRAPH_END.split(docstring.strip(), maxsplit=1)[0]).strip()


def is_query(paragraph: str) -> bool:
    """Whether a paragraph is a few words of English and nothing else."""
    if not FEWEST_WORDS <= len(_WORD.findall(paragraph)) <= MOST_WORDS:
        return False
    if not paragraph.isascii() or _FOREIGN.search(paragraph):
        return False
    characters = paragraph.replace(" ", "")
    return sum(map(str.isalpha, characters)) >= SMALLEST_SHARE_OF_LETTERS * len(characters)


def is_wanted(function: Function) -> bool:
    """Whether a function is no test, has a name of its own, and does something."""
    name = function.name
    if "test" in name.lower() or (name.startswith("__") and name.endswith("__")):
        return False
    body = function.body[1:]
    return bool(body) and not isinstance(body[0], ast.Pass | ast.Raise)


def _functions(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, Function]]:
    """Yield functions and methods with their names; functions inside functions belong to these."""
    for child in node.body:
        if isinstance(child, Function):
            yield f"{prefix}{child.name}", child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")


def _without_docstring(function: Function, lines: list[str]) -> str:
    """Return a function's source from ``def`` on, without its docstring and what indents it all.

    A function whose docstring shares a line with other code comes back empty.
    """
    docstring = function.body[0]
    assert docstring.end_lineno is not None  # ast.parse always tells it
    assert function.end_lineno is not None
    if docstring.lineno == function.lineno or function.body[1].lineno == docstring.end_lineno:
        return ""
    kept = lines[function.lineno - 1 : docstring.lineno - 1] + lines[docstring.end_lineno : function.end_lineno]
    return textwrap.dedent("\n".join(kept)).strip("\n")


def _count_lines(code: str) -> int:
    """Count the lines that hold code."""
    return sum(1 for line in code.split("\n") if line.strip() and not line.lstrip().startswith("#"))
