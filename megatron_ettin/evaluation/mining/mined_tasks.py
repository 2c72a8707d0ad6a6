"""Labelled tasks made of a docstring and its function, for a machine that has nothing else: real text, labels for free.

- ``classification/package``: a docstring, and which of six packages it is from.
- ``classification/belongs``: a docstring and a function, and whether they belong together.
- ``generative/word_order``: a sentence of a docstring, and the same with two neighbouring words swapped (BLiMP's form).
- ``generative/its_function``: a docstring, its function, and another function of the same file (PIQA's form).

What is drawn is drawn by hashes of paths and names, so that a machine with the same packages has the same tasks. Splits
are by file: what two functions of a file share is not in two of them.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

from megatron_ettin.evaluation.mining.functions import MinedPair, hash_text
from megatron_ettin.evaluation.mining.pair_files import is_for_test
from megatron_ettin.files import write_json_lines

Row = Mapping[str, str | int]
Split = dict[str, list[Row]]

TASKS = ("classification/package", "classification/belongs", "generative/word_order", "generative/its_function")
NUM_PACKAGES = 6
_SPLITS = ("train", "validation", "test")
_TEST_SHARE = 0.1
"""Of the files; as many are for validation."""
_CODE_CHARACTERS = 300
_CHOICE_CHARACTERS = 100
"""Of a description and of a function to choose: an encoder scores each of its tokens in a pass of its own."""
_SENTENCE = re.compile(r"[A-Z][A-Za-z,' -]+\.(?=\s|$)")
"""Words and commas only, so that what is swapped are words."""
_FEWEST_WORDS = 6


def package_task(pairs: Sequence[MinedPair]) -> Split:
    """Return docstrings labelled with their package, as many of each of the ``NUM_PACKAGES`` that have most of them."""
    by_package: dict[str, list[MinedPair]] = defaultdict(list)
    for pair in _shuffled(pairs):
        by_package[_package(pair)].append(pair)
    largest = sorted(by_package, key=lambda package: (-len(by_package[package]), package))[:NUM_PACKAGES]
    rows: Split = {}
    for split in _SPLITS:
        of_split = [[pair for pair in by_package[package] if _split_of(pair) == split] for package in sorted(largest)]
        fewest = min((len(pairs) for pairs in of_split), default=0)
        rows[split] = [
            {"text": pair.query, "label": label} for label, of_one in enumerate(of_split) for pair in of_one[:fewest]
        ]
    return rows


def belongs_task(pairs: Sequence[MinedPair]) -> Split:
    """Return docstrings with a function each: for one half their own (1), for the other one of another file (0)."""
    rows: Split = {}
    for split in _SPLITS:
        chosen = [pair for pair in _shuffled(pairs) if _split_of(pair) == split]
        half = len(chosen) // 2
        rows[split] = [_told_and_shown(pair, pair, 1) for pair in chosen[:half]]
        strangers = chosen[half:]
        # Each takes the next one's function, so that every function is shown once.
        for pair, other in zip(strangers, strangers[1:] + strangers[:1], strict=True):
            if pair.file != other.file:
                rows[split].append(_told_and_shown(pair, other, 0))
    return rows


def word_order_task(pairs: Sequence[MinedPair]) -> list[Row]:
    """Return sentences beside their likes with two neighbouring words swapped, neither the first one."""
    rows: list[Row] = []
    seen: set[str] = set()
    for pair in _shuffled(pairs):
        found = _SENTENCE.search(pair.query)
        words = found.group().removesuffix(".").split(" ") if found else []
        # A comma would show which words were moved.
        places = [i for i in range(1, len(words) - 1) if words[i].isalpha() and words[i + 1].isalpha()]
        places = [i for i in places if words[i].lower() != words[i + 1].lower()]
        sentence = " ".join(words) + "."
        if len(words) < _FEWEST_WORDS or not places or sentence in seen:
            continue
        seen.add(sentence)
        i = Random(pair.order).choice(places)
        swapped = [*words[:i], words[i + 1], words[i], *words[i + 2 :]]
        rows.append({"uid": "word_order", "sentence_good": sentence, "sentence_bad": " ".join(swapped) + "."})
    return rows


def function_choice_task(pairs: Sequence[MinedPair]) -> list[Row]:
    """Return docstrings with two functions of their file, of which ``label`` says which one is theirs."""
    ordered = _shuffled(pairs)
    by_file: dict[str, list[MinedPair]] = defaultdict(list)
    for pair in ordered:
        by_file[pair.file].append(pair)
    rows: list[Row] = []
    for pair in ordered:
        shown = _first_lines(pair, _CHOICE_CHARACTERS)
        different = (_first_lines(other, _CHOICE_CHARACTERS) for other in by_file[pair.file])
        others = [other for other in different if other != shown]
        if others and len(pair.query) <= _CHOICE_CHARACTERS:
            draw = Random(pair.order)
            solutions, label = [shown, draw.choice(others)], draw.randrange(2)
            if label:
                solutions.reverse()
            goal = f'"""{pair.query}"""'
            rows.append({"goal": goal, "sol1": solutions[0], "sol2": solutions[1], "label": label})
    return rows


def write_tasks(pairs: Sequence[MinedPair], output: Path, *, most: int) -> dict[str, int]:
    """Write all tasks below ``output``, whole or not at all, and return their sizes.

    Few sources do not make every task: one without a line in each of its files, or with a single label, is left out.

    Args:
        pairs: without duplicates, which would leak from one split into another.
        output: the folder that ``--data`` names later.
        most: at most so many lines in a training split, and a quarter of it in any other file.
    """
    files: dict[str, list[Row]] = {}
    most_elsewhere = max(1, most // 4)
    for name, task in (("package", package_task(pairs)), ("belongs", belongs_task(pairs))):
        for split, rows in task.items() if _can_be_told_apart(task) else ():
            files[f"classification/{name}/{split}.jsonl"] = _thinned(rows, most if split == "train" else most_elsewhere)
    for name, rows in (("word_order", word_order_task(pairs)), ("its_function", function_choice_task(pairs))):
        if rows:
            files[f"generative/{name}.jsonl"] = rows[:most_elsewhere]
    write_json_lines({output / name: rows for name, rows in files.items()})
    return {name: len(rows) for name, rows in files.items()}


def _can_be_told_apart(task: Split) -> bool:
    return all(len({row["label"] for row in rows}) > 1 for rows in task.values())


def _package(pair: MinedPair) -> str:
    return pair.file.split("/")[0]


def _split_of(pair: MinedPair) -> str:
    """Return train, validation or test, by the file alone."""
    if is_for_test(pair.file, _TEST_SHARE):
        return "test"
    return "validation" if is_for_test(pair.file, 2 * _TEST_SHARE) else "train"


def _shuffled(pairs: Sequence[MinedPair]) -> list[MinedPair]:
    return sorted(pairs, key=lambda pair: pair.order)


def _thinned(rows: Sequence[Row], most: int) -> list[Row]:
    """Return rows in an order that mixes labels, at most so many."""
    return sorted(rows, key=lambda row: hash_text(json.dumps(row)))[:most]


def _told_and_shown(told: MinedPair, shown: MinedPair, label: int) -> Row:
    return {"premise": told.query, "hypothesis": _first_lines(shown, _CODE_CHARACTERS), "label": label}


def _first_lines(pair: MinedPair, most_characters: int) -> str:
    """Return a function's first lines, or the beginning of the first one: what fits a small model's window."""
    lines: list[str] = []
    length = 0
    for line in pair.positive.splitlines():
        length += len(line) + 1
        if lines and length > most_characters:
            break
        lines.append(line)
    return "\n".join(lines)[:most_characters]
