"""Tasks from documented functions: labels are right, and splits share no file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from megatron_ettin.evaluation.mining.functions import MinedPair
from megatron_ettin.evaluation.mining.mined_tasks import (
    belongs_task,
    function_choice_task,
    package_task,
    word_order_task,
    write_tasks,
)

VERBS = ("Return", "Sort", "Remove", "Count", "Join")
NOUNS = ("names", "numbers", "lines", "files", "words")


def described(package: int, file: int, place: int) -> MinedPair:
    """A function whose docstring and code contain its name, and so its package, file and position."""
    name = f"f{package}_{file}_{place}"
    sentence = f"{VERBS[place % 5]} all the {NOUNS[file % 5]} of package {'abcdefghij'[package]}, file "
    words = " ".join("one" if digit == "1" else "nil" for digit in f"{file:b}{place:b}")
    text = f"{sentence}{words}. It is called {name}."
    return MinedPair(text, f"def {name}():\n    return {place}", f"p{package}/m{file}.py", name)


@pytest.fixture(scope="module")
def pairs() -> list[MinedPair]:
    """Eight packages; package k has 60 + k files with three functions each."""
    return [
        described(package, file, place) for package in range(8) for file in range(60 + package) for place in range(3)
    ]


def name_in(text: Any) -> str:
    """Return the name in a docstring or a function's code."""
    return str(text).split("called ")[-1].removesuffix(".").removeprefix("def ").split("(")[0]


def file_of(name: str) -> str:
    return name.rsplit("_", 1)[0]


def test_packages_are_the_largest_ones_with_equal_counts(pairs: list[MinedPair]) -> None:
    task = package_task(pairs)
    for rows in task.values():
        counts = Counter(row["label"] for row in rows)
        assert set(counts) == set(range(6))
        assert len(set(counts.values())) == 1
        # Labels follow the packages' names; packages 0 and 1 are the smallest of eight.
        assert all(name_in(row["text"]).startswith(f"f{int(row['label']) + 2}_") for row in rows)


def test_no_file_is_in_two_splits(pairs: list[MinedPair]) -> None:
    for task, column in ((package_task(pairs), "text"), (belongs_task(pairs), "premise")):
        files = [{file_of(name_in(row[column])) for row in rows} for rows in task.values()]
        assert all(files)
        assert sum(map(len, files)) == len(set().union(*files))


def test_other_functions_are_of_the_same_split(pairs: list[MinedPair]) -> None:
    task = belongs_task(pairs)
    for rows in task.values():
        of_split = {file_of(name_in(row["premise"])) for row in rows}
        for row in rows:
            described, shown = name_in(row["premise"]), name_in(row["hypothesis"])
            assert (described == shown) == (row["label"] == 1)
            assert file_of(shown) in of_split
            assert row["label"] == 1 or file_of(described) != file_of(shown)
    labels = Counter(row["label"] for rows in task.values() for row in rows)
    assert labels[0] == pytest.approx(labels[1], rel=0.05)


def test_two_neighbouring_words_are_swapped(pairs: list[MinedPair]) -> None:
    rows = word_order_task(pairs)
    assert len(rows) > 50
    for row in rows:
        good, bad = (str(row[key]).split(" ") for key in ("sentence_good", "sentence_bad"))
        moved = [i for i, (one, other) in enumerate(zip(good, bad, strict=True)) if one.strip(".") != other.strip(".")]
        assert len(moved) == 2
        assert moved[1] == moved[0] + 1
        assert moved[0] > 0
        assert sorted(w.strip(".") for w in good) == sorted(w.strip(".") for w in bad)
        assert "," not in good[moved[0]] + good[moved[1]]


def test_both_functions_are_of_one_file(pairs: list[MinedPair]) -> None:
    rows = function_choice_task(pairs)
    assert len(rows) == len(pairs)
    for row in rows:
        right, wrong = row[f"sol{int(row['label']) + 1}"], row[f"sol{2 - int(row['label'])}"]
        goal = name_in(str(row["goal"]).strip('"'))
        assert name_in(right) == goal
        assert name_in(wrong) != goal
        assert file_of(name_in(wrong)) == file_of(goal)
    assert sum(int(row["label"]) for row in rows) == pytest.approx(len(rows) / 2, rel=0.2)


def test_removing_a_package_does_not_change_the_other_rows(pairs: list[MinedPair]) -> None:
    fewer = [pair for pair in pairs if not pair.file.startswith("p7/")]
    kept = [row for row in word_order_task(pairs) if "package h" not in str(row["sentence_good"])]
    assert word_order_task(fewer) == kept


def test_single_package_gives_no_package_task(pairs: list[MinedPair], tmp_path: Path) -> None:
    sizes = write_tasks([pair for pair in pairs if pair.file.startswith("p7/")], tmp_path, most=40)
    assert {name.removesuffix(".jsonl") for name in sizes} == {
        *(f"classification/belongs/{split}" for split in ("train", "validation", "test")),
        *("generative/word_order", "generative/its_function"),
    }
    assert all(sizes.values())
    assert not (tmp_path / "classification" / "package").exists()
    assert write_tasks(pairs[:1], tmp_path / "lone", most=40) == {"generative/word_order.jsonl": 1}


def test_files_are_limited_and_reproducible(pairs: list[MinedPair], tmp_path: Path) -> None:
    sizes = write_tasks(pairs, tmp_path / "one", most=40)
    assert write_tasks(list(reversed(pairs)), tmp_path / "two", most=40) == sizes
    assert max(size for name, size in sizes.items() if "train" in name) == 40
    assert max(size for name, size in sizes.items() if "train" not in name) == 10
    for name, size in sizes.items():
        text = (tmp_path / "one" / name).read_text()
        assert text == (tmp_path / "two" / name).read_text()
        assert len([json.loads(line) for line in text.splitlines()]) == size
