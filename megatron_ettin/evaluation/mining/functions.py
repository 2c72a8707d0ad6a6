"""Mining documented functions from source files, and dropping near-duplicates, as for CodeSearchNet (arXiv:1909.09436).

Near-duplicates are those of Allamanis 2019 (arXiv:1812.06469): two functions whose sets of words (identifiers and
literals) have a Jaccard similarity of at least 0.8, and whose multisets of words one of at least 0.7.
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

_SET_SIMILARITY = 0.8
_MULTISET_SIMILARITY = 0.7
_FEWEST_WORDS, _MOST_WORDS = 3, 256
_FEWEST_LINES = 3
_MIN_LETTER_SHARE = 0.6
"""Of a query's characters without spaces; below it the text is a table, a formula or a call."""

_WORD = re.compile(r"\w+")
_LINK_OR_TAG = re.compile(r"https?:|www\.|<[a-zA-Z/][^>]*>")
_SPACES = re.compile(r"\s+")
_PARAGRAPH_END = re.compile(r"\n\s*\n")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class MinedPair:
    """A query, the function that answers it, and its location."""

    query: str
    positive: str
    file: str
    """Path that starts with the source's folder, equal on every machine: json/decoder.py."""
    function: str
    """Qualified name in the file: JSONDecoder.decode."""

    @property
    def order(self) -> str:
        """A hash to sort by, which gives an order independent of the content."""
        return hash_text(f"{self.file}:{self.function}:{self.query}")


def hash_text(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def mine_source(source: str, file: str) -> Iterator[MinedPair]:
    """Yield the pairs of one file that pass the filters, in order; none if this version of Python cannot parse it."""
    if "test" in file.lower():
        return
    try:
        with warnings.catch_warnings(action="ignore"):  # about invalid escapes in old sources
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    lines = source.split("\n")
    for name, function in _functions(tree, ""):
        query = first_paragraph(ast.get_docstring(function) or "")
        if is_query(query) and _is_useful(function):
            code = _without_docstring(function, lines)
            if _count_lines(code) >= _FEWEST_LINES:
                yield MinedPair(query, code, file, name)


def first_paragraph(docstring: str) -> str:
    """Return the first paragraph of a docstring on one line."""
    return _SPACES.sub(" ", _PARAGRAPH_END.split(docstring.strip(), maxsplit=1)[0]).strip()


def is_query(paragraph: str) -> bool:
    """Whether a paragraph is a short text in English without markup."""
    if not _FEWEST_WORDS <= len(_WORD.findall(paragraph)) <= _MOST_WORDS:
        return False
    if not paragraph.isascii() or _LINK_OR_TAG.search(paragraph):
        return False
    characters = paragraph.replace(" ", "")
    return sum(map(str.isalpha, characters)) >= _MIN_LETTER_SHARE * len(characters)


def _is_useful(function: Function) -> bool:
    """Whether a function is neither a test nor a special method, and has a body that does something."""
    name = function.name
    if "test" in name.lower() or (name.startswith("__") and name.endswith("__")):
        return False
    body = function.body[1:]
    return bool(body) and not isinstance(body[0], ast.Pass | ast.Raise)


def _functions(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, Function]]:
    """Yield functions and methods with their qualified names; nested functions are part of the outer one."""
    for child in node.body:
        if isinstance(child, Function):
            yield f"{prefix}{child.name}", child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")


def _without_docstring(function: Function, lines: list[str]) -> str:
    """Return a function's dedented source from ``def``, without its docstring.

    It is empty if the docstring shares a line with code.
    """
    docstring = function.body[0]
    assert docstring.end_lineno is not None  # set by ast.parse
    assert function.end_lineno is not None
    if docstring.lineno == function.lineno or function.body[1].lineno == docstring.end_lineno:
        return ""
    kept = lines[function.lineno - 1 : docstring.lineno - 1] + lines[docstring.end_lineno : function.end_lineno]
    return textwrap.dedent("\n".join(kept)).strip("\n")


def _count_lines(code: str) -> int:
    """Return the number of lines with code, without comments."""
    return sum(1 for line in code.split("\n") if line.strip() and not line.lstrip().startswith("#"))


def drop_near_duplicates(codes: Sequence[str]) -> list[int]:
    """Return the indices of codes that are not near-duplicates of an earlier kept one.

    Two sets with a Jaccard similarity of at least t share one of the rarest len - ceil(t * len) + 1 words of each (the
    prefix filter of Chaudhuri et al. 2006), so few pairs are compared and none is missed.
    """
    words = [Counter(_WORD.findall(code)) for code in codes]
    frequency = Counter(word for counts in words for word in counts)
    kept: list[int] = []
    kept_by_word: dict[str, list[int]] = defaultdict(list)
    for index, counts in enumerate(words):
        rarest_first = sorted(counts, key=lambda word: (frequency[word], word))
        prefix = rarest_first[: len(counts) - math.ceil(_SET_SIMILARITY * len(counts)) + 1]
        candidates = {other for word in prefix for other in kept_by_word[word]}
        if any(are_near_duplicates(counts, words[other]) for other in candidates):
            continue
        kept.append(index)
        for word in prefix:
            kept_by_word[word].append(index)
    return kept


def are_near_duplicates(first: Counter[str], second: Counter[str]) -> bool:
    """Whether two multisets of words are similar enough to be near-duplicates."""
    shared = len(first.keys() & second.keys())
    if shared < _SET_SIMILARITY * (len(first) + len(second) - shared):
        return False
    return (first & second).total() >= _MULTISET_SIMILARITY * (first | second).total()
