"""Labelled tasks from docstrings and functions of installed packages: real text and free labels, without a network.

- ``classification/package``: a docstring, labelled with the one of six packages that contains it.
- ``classification/belongs``: a docstring and a function, labelled with whether they belong together.
- ``generative/word_order``: a sentence of a docstring, and the same with two neighbouring words swapped (BLiMP's form).
- ``generative/its_function``: a docstring, its function, and another function of the same file (PIQA's form).

All choices depend on hashes of paths and names only, so equal packages give equal tasks on every machine. Tasks are
split by file, so that functions of one file are never in two splits.
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
"""Share of the files in the test split; the validation split has the same share."""
_CODE_CHARACTERS = 300
_CHOICE_CHARACTERS = 100
"""Limit for a docstring and for a function to choose, since an encoder scores each token in a separate pass."""
_SENTENCE = re.compile(r"[A-Z][A-Za-z,' -]+\.(?=\s|$)")
"""A sentence of words and commas only."""
_FEWEST_WORDS = 6


def package_task(pairs: Sequence[MinedPair]) -> Split:
    """Return docstrings labelled with their package, equally many of each of the ``NUM_PACKAGES`` largest packages."""
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
    """Return docstrings with their own function (label 1), or with a function of another file (label 0)."""
    rows: Split = {}
    for split in _SPLITS:
        chosen = [pair for pair in _shuffled(pairs) if _split_of(pair) == split]
        half = len(chosen) // 2
        rows[split] = [_belongs_row(pair, pair, 1) for pair in chosen[:half]]
        others = chosen[half:]
        # Each gets the next one's function, so that every function occurs once.
        for pair, other in zip(others, others[1:] + others[:1], strict=True):
            if pair.file != other.file:
                rows[split].append(_belongs_row(pair, other, 0))
    return rows


def word_order_task(pairs: Sequence[MinedPair]) -> list[Row]:
    """Return sentences with a copy in which two neighbouring words other than the first are swapped."""
    rows: list[Row] = []
    seen: set[str] = set()
    for pair in _shuffled(pairs):
        match = _SENTENCE.search(pair.query)
        words = match.group().removesuffix(".").split(" ") if match else []
        # A moved comma would reveal the swap.
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
    """Return docstrings with two functions of their file; ``label`` is the index of the right one."""
    ordered = _shuffled(pairs)
    by_file: dict[str, list[MinedPair]] = defaultdict(list)
    for pair in ordered:
        by_file[pair.file].append(pair)
    rows: list[Row] = []
    for pair in ordered:
        own = _first_lines(pair, _CHOICE_CHARACTERS)
        candidates = (_first_lines(other, _CHOICE_CHARACTERS) for other in by_file[pair.file])
        others = [other for other in candidates if other != own]
        if others and len(pair.query) <= _CHOICE_CHARACTERS:
            draw = Random(pair.order)
            solutions, label = [own, draw.choice(others)], draw.randrange(2)
            if label:
                solutions.reverse()
            goal = f'"""{pair.query}"""'
            rows.append({"goal": goal, "sol1": solutions[0], "sol2": solutions[1], "label": label})
    return rows


def write_tasks(pairs: Sequence[MinedPair], output: Path, *, most: int) -> dict[str, int]:
    """Write all tasks below ``output``, all or none, and return the number of lines of each file.

    A task is left out if one of its files would be empty or have a single label.

    Args:
        pairs: without duplicates, which would leak between splits.
        output: the folder for ``--data``.
        most: maximum lines of a training split; the other files have at most a quarter of it.
    """
    files: dict[str, list[Row]] = {}
    most_elsewhere = max(1, most // 4)
    for name, task in (("package", package_task(pairs)), ("belongs", belongs_task(pairs))):
        for split, rows in task.items() if _has_several_labels(task) else ():
            files[f"classification/{name}/{split}.jsonl"] = _thinned(rows, most if split == "train" else most_elsewhere)
    for name, rows in (("word_order", word_order_task(pairs)), ("its_function", function_choice_task(pairs))):
        if rows:
            files[f"generative/{name}.jsonl"] = rows[:most_elsewhere]
    write_json_lines({output / name: rows for name, rows in files.items()})
    return {name: len(rows) for name, rows in files.items()}


def _has_several_labels(task: Split) -> bool:
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
    """Return at most ``most`` rows in an order that mixes the labels."""
    return sorted(rows, key=lambda row: hash_text(json.dumps(row)))[:most]


def _belongs_row(described: MinedPair, shown: MinedPair, label: int) -> Row:
    return {"premise": described.query, "hypothesis": _first_lines(shown, _CODE_CHARACTERS), "label": label}


def _first_lines(pair: MinedPair, most_characters: int) -> str:
    """Return a function's first lines up to a number of characters, or the start of a longer first line."""
    lines: list[str] = []
    length = 0
    for line in pair.positive.splitlines():
        length += len(line) + 1
        if lines and length > most_characters:
            break
        lines.append(line)
    return "\n".join(lines)[:most_characters]
