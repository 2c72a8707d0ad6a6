"""The starter corpus: every word of a file once, cut at lines and paragraphs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ettin.data.preprocess.starter_text import (
    PLAIN_CHARACTERS,
    SOURCE_CHARACTERS,
    Document,
    choose_documents,
    module_documents,
    own_text,
    write_jsonl,
)

SOURCE = '''"""Of the module."""
import this

class Counter:
    """Of the class,
    in two lines."""

    async def count(self):
        "Of the method."
        return "no docstring"

def plain():
    return 1
'''


def test_docstrings_are_separated_from_the_source() -> None:
    texts = {document.source: document.text for document in module_documents(SOURCE, "m.py")}
    assert texts == {
        "m.py:": "Of the module.",
        "m.py:Counter": "Of the class,\nin two lines.",
        "m.py:count": "Of the method.",
        "m.py#0": 'import this\n\nclass Counter:\n\n    async def count(self):\n        return "no docstring"\n\n'
        "def plain():\n    return 1\n",
    }


def test_lines_are_counted_as_python_counts_them() -> None:
    # A form feed and U+2028 end a line for str.splitlines, but not for Python.
    source = 'a = "\u2028"\n\f\ndef f():\n    """Documented."""\n    return a\n'
    assert [document.text for document in module_documents(source, "m.py")] == [
        "Documented.",
        'a = "\u2028"\n\f\ndef f():\n    return a\n',
    ]


def test_long_source_is_cut_at_line_ends_without_loss() -> None:
    source = "".join(f"x{i} = 1_{i}\n" for i in range(10_000, 13_500))
    parts = [document.text for document in module_documents(source, "m.py")]
    assert "".join(parts) == source
    assert len(parts) == 3
    assert all(part.endswith("\n") and SOURCE_CHARACTERS <= len(part) < SOURCE_CHARACTERS + 20 for part in parts[:-1])


def test_a_file_for_another_python_is_skipped() -> None:
    assert list(module_documents("print 'hello'\n", "old.py")) == []


@given(st.lists(st.text("ab \n", min_size=1, max_size=900), max_size=20))
def test_plain_text_is_cut_between_paragraphs_and_loses_no_word(
    tmp_path_factory: pytest.TempPathFactory, paragraphs: list[str]
) -> None:
    text = "\n\n".join(paragraphs)
    file = tmp_path_factory.mktemp("own") / "own.txt"
    file.write_text(text)
    parts = [document.text for document in own_text(str(file))]
    assert " ".join(parts).split() == text.split()
    assert all(len(part) < PLAIN_CHARACTERS + 901 for part in parts)


def test_choice_depends_only_on_the_seed_and_fits_the_limit() -> None:
    documents = [Document(f"é{i}", f"d{i}") for i in range(50)] + [Document("é0", "twice"), Document(" \n", "blank")]
    chosen = choose_documents(documents, seed=1, largest_bytes=1 << 30)
    assert sorted(document.text for document in chosen) == sorted(f"é{i}" for i in range(50))
    assert choose_documents(documents, seed=1, largest_bytes=1 << 30) == chosen
    assert choose_documents(documents, seed=2, largest_bytes=1 << 30) != chosen
    fewer = choose_documents(documents, seed=1, largest_bytes=41)
    assert fewer == chosen[: len(fewer)]
    assert sum(len(document.text.encode()) for document in fewer) in range(38, 42)


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    def documents():  # type: ignore[no-untyped-def]
        yield Document("a", "b")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_jsonl(documents(), tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == []
