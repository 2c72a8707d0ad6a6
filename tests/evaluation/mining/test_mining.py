"""The miner on a small package, with one function for each filter."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.mining.functions import (
    MinedPair,
    are_near_duplicates,
    drop_near_duplicates,
    first_paragraph,
    is_query,
    mine_source,
)
from megatron_ettin.evaluation.mining.pair_files import drop_duplicates, mine_pairs

ROOT = Path(__file__).resolve().parents[3]

SOURCE = '''
import functools


def area(width, height):
    """Return the area
    of a rectangle.

    Args:
        width: in metres.
    """
    # What a comment says is no line.
    area = width * height
    return area


@functools.cache
async def fetch(name):
    """Fetch what has this name."""
    found = await look(name)

    return found


class Shelf:
    """A shelf with some books."""

    def __init__(self, books):
        """Put books on a new shelf."""
        self.books = books
        self.count = len(books)

    def __len__(self):
        """Return how many books there are."""
        count = len(self.books)
        return count

    class Board:
        def saw(self, length):
            """Saw the board to this length."""
            self.length = length
            self.cuts += 1

    def take(self, title):
        r"""Take a book from the shelf."""
        def find(book):
            """Return whether this is the book."""
            wanted = book.title
            return wanted == title
        return next(filter(find, self.books))


def few_words():
    """Two words."""
    first = 1
    return first


def few_lines():
    """Return nothing of any use."""
    return None


def only_comments():
    """Return nothing, with many comments."""
    # one

    # two
    return None


def test_area():
    """Check that the area is right."""
    found = area(2, 3)
    assert found == 6


def contest():
    """Find out who is the best of all."""
    winners = []
    return winners


def abstract(self):
    """Do what a subclass has to say."""
    raise NotImplementedError(
        "a subclass says so"
    )


def later(self):
    """Do what is not written yet."""
    pass
    # and more
    return None


def no_docstring(x):
    y = x + 1
    return y


def foreign():
    """Liefert die größte Zahl der Liste."""
    largest = max([])
    return largest


def address():
    """See https://example.org for the whole story."""
    story = ""
    return story


def tagged():
    """Return the text inside <b>bold</b> tags."""
    text = ""
    return text


def formula():
    """f(x) = (a * x ** 2 + b * x + c) / (4 * 12 - 17) [1, 2, 3]"""
    value = 0
    return value


def one_line(): """Return one and then some more."""; x = 1; return x


def shared_line():
    """Return two and then some more."""; y = 2
    z = 3
    return y, z
'''

AREA = "def area(width, height):\n    # What a comment says is no line.\n    area = width * height\n    return area"


def test_filters() -> None:
    mined = {pair.function: pair for pair in mine_source(SOURCE, "shapes/plane.py")}
    assert set(mined) == {"area", "fetch", "Shelf.Board.saw", "Shelf.take"}
    assert mined["area"] == MinedPair("Return the area of a rectangle.", AREA, "shapes/plane.py", "area")
    assert mined["fetch"].positive == "async def fetch(name):\n    found = await look(name)\n\n    return found"
    assert mined["Shelf.Board.saw"].positive.startswith("def saw(self, length):\n    self.length")
    assert mined["Shelf.take"].query == "Take a book from the shelf."
    # A nested function keeps its docstring.
    assert '    """Return whether this is the book."""' in mined["Shelf.take"].positive


def test_functions_without_docstring_compile() -> None:
    for pair in mine_source(SOURCE, "shapes/plane.py"):
        compile(pair.positive, pair.file, "exec")


@pytest.mark.parametrize("file", ["tests/plane.py", "shapes/test_plane.py", "shapes/Testing.py"])
def test_test_files_are_skipped(file: str) -> None:
    assert list(mine_source(SOURCE, file)) == []


@pytest.mark.parametrize("source", ["def f(:", "print 'python 2'", "x = 1\0"])
def test_sources_that_do_not_parse_give_no_pairs(source: str) -> None:
    assert list(mine_source(source, "broken.py")) == []


def test_first_paragraph_and_query_length() -> None:
    assert first_paragraph("\n  One two\n   three.\n   \n  Four.\n") == "One two three."
    assert is_query("one two three")
    assert not is_query("one two")
    assert is_query(" ".join(["word"] * 256))
    assert not is_query(" ".join(["word"] * 257))


LONG = "def move(self, source, target, offset):\n    first = self.read(source, offset)\n    self.write(target, first)\n"


def test_near_duplicates() -> None:
    reformatted = LONG.replace(", ", ",").replace("    ", "\t")
    one_word_changed = LONG.replace("offset", "start")
    other = "def count(words):\n    total = 0\n    for word in words:\n        total += len(word)\n    return total\n"
    assert drop_near_duplicates([LONG, reformatted, other, one_word_changed]) == [0, 2]


def test_near_duplicates_equal_those_of_comparing_all_pairs() -> None:
    import random

    rng = random.Random(4)
    codes = [" ".join(rng.choices("abcdefghijkl", weights=range(1, 13), k=rng.randint(1, 14))) for _ in range(400)]
    bags = [Counter(code.split()) for code in codes]
    kept: list[int] = []
    for index, bag in enumerate(bags):
        if not any(are_near_duplicates(bag, bags[other]) for other in kept):
            kept.append(index)
    assert 50 < len(kept) < 350
    assert drop_near_duplicates(codes) == kept


def test_similarity_by_hand() -> None:
    assert are_near_duplicates(Counter("abcd"), Counter("abcde"))  # 4 of 5 and 4 of 5
    assert not are_near_duplicates(Counter("abcd"), Counter("abcef"))  # 3 of 6
    assert not are_near_duplicates(Counter("aaaab"), Counter("abbbb"))  # the same sets; 2 of 8


def test_duplicate_queries_are_dropped() -> None:
    other = "def total(numbers):\n    found = 0\n    return found + sum(numbers)"
    pairs = [
        MinedPair("Add them all up.", LONG, "a.py", "move"),
        MinedPair("add them all up", other, "b.py", "total"),
        MinedPair("Subtract them all.", other, "c.py", "total"),
    ]
    assert drop_duplicates(pairs) == [pairs[0], pairs[2]]


WORDS = [
    "amber", "birch", "cedar", "delta", "ember", "flint", "grove", "hazel", "ivory",
    "jade", "karst", "larch", "maple", "north", "ochre", "pearl", "quartz", "raven",
]  # fmt: skip


def write_package(root: Path, num_files: int = 30) -> Path:
    """Write a package with three different functions in each file."""
    package = root / "forest"
    package.mkdir(parents=True)
    for number in range(num_files):
        functions = []
        for place in range(3):
            index = number * 3 + place
            one, two, three = (WORDS[index // len(WORDS) ** power % len(WORDS)] for power in range(3))
            functions.append(f"""
                def {one}_{two}_{index}({one}{index}, {two}{number}):
                    '''Make {one} of {two} and {three}, number {index}.'''
                    {one}_{two} = {one}{index} + {two}{number}
                    {two}_{three}_{index} = {one}_{two} * {index}
                    return {two}_{three}_{index}
                """)
        (package / f"part_{number:02}.py").write_text("".join(map(textwrap.dedent, functions)))
    return package


def test_splits_share_no_file(tmp_path: Path) -> None:
    mined = mine_pairs([str(write_package(tmp_path))], max_pairs=None, test_share=0.3)
    train, test = {pair.file for pair in mined.train}, {pair.file for pair in mined.test}
    assert not train & test
    assert train | test == {f"forest/part_{number:02}.py" for number in range(30)}
    assert len(mined.train) + len(mined.test) == mined.num_found == 90
    assert 3 <= len(test) <= 15


def test_file_stays_in_its_split(tmp_path: Path) -> None:
    few = mine_pairs([str(write_package(tmp_path / "few", 20))], max_pairs=None, test_share=0.3)
    many = mine_pairs([str(write_package(tmp_path / "many", 30))], max_pairs=None, test_share=0.3)
    assert set(few.test) <= set(many.test)
    assert set(few.train) <= set(many.train)


def test_sampled_pairs_come_from_all_files(tmp_path: Path) -> None:
    package = str(write_package(tmp_path))
    every = mine_pairs([package], max_pairs=None, test_share=0.3)
    some = mine_pairs([package], max_pairs=30, test_share=0.3)
    assert len(some.train) + len(some.test) == 30
    assert set(some.train) <= set(every.train)
    assert set(some.test) <= set(every.test)
    assert len({pair.file for pair in (*some.train, *some.test)}) > 15


def test_packages_and_modules_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package(tmp_path)
    (tmp_path / "alone.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    mined = mine_pairs(["forest", "alone"], max_pairs=None, test_share=0.3)
    by_folder = mine_pairs([str(tmp_path / "forest")], max_pairs=None, test_share=0.3)
    assert {pair for pair in mined.train if pair.file != "alone.py"} == set(by_folder.train)
    assert {pair.function for pair in (*mined.train, *mined.test) if pair.file == "alone.py"} == {
        "area", "fetch", "Shelf.Board.saw", "Shelf.take"
    }  # fmt: skip


@pytest.mark.parametrize("source", ["no/such/folder", "no_such_package_here", "sys", "__main__"])
def test_unknown_sources_are_refused(source: str) -> None:
    with pytest.raises(ConfigError, match=f"--source {source}: there is no such folder"):
        mine_pairs([source], max_pairs=None, test_share=0.3)


def test_empty_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave none for t"):
        mine_pairs([str(write_package(tmp_path, 1))], max_pairs=None, test_share=0.3)


def run_miner(*arguments: str | float | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/mine_pairs.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_command_line(tmp_path: Path) -> None:
    package, outputs = write_package(tmp_path), [tmp_path / "one", tmp_path / "two"]
    for output in outputs:
        done = run_miner("--source", package, "--test-share", 0.3, "--output", output)
        assert done.returncode == 0, done.stderr
    train = [json.loads(line) for line in (outputs[0] / "train.jsonl").read_text().splitlines()]
    test = [json.loads(line) for line in (outputs[0] / "test.jsonl").read_text().splitlines()]
    assert len(train) + len(test) == 90
    assert set(train[0]) == {"query", "positive", "source"}
    assert f"{len(train)} pairs in train.jsonl, {len(test)} in test.jsonl" in done.stdout
    for name in ("train.jsonl", "test.jsonl"):
        assert (outputs[0] / name).read_bytes() == (outputs[1] / name).read_bytes()
    assert {path.name for path in outputs[0].iterdir()} == {"train.jsonl", "test.jsonl"}

    wrong = run_miner("--source", "no/such", "--output", tmp_path / "none")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "none").exists()
