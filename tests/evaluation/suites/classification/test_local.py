"""Files of labelled tasks: labels, the purpose of each split, and messages for invalid files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.suites.classification.data import Split, draw_items, hold_out
from megatron_ettin.evaluation.suites.classification.local import read_local_task
from megatron_ettin.evaluation.suites.classification.protocol import ClassificationProtocol
from tests.evaluation.suites.classification.tiny import build_tasks, rows, write_task


def test_string_labels_are_numbered_in_sorted_order(tmp_path: Path) -> None:
    items = [{"text": "x", "label": label} for label in ("tea", "ale", "tea", "rum")]
    task = read_local_task(write_task(tmp_path / "t", train=items, validation=items, test=items), 0.5)
    assert task.classes == ["ale", "rum", "tea"]
    assert task.purposes.train.targets_N.tolist() == [2, 0, 2, 1]


def test_whole_numbers_are_classes_and_fractions_a_regression(tmp_path: Path) -> None:
    whole = [{"premise": "a", "hypothesis": "b", "label": n % 3} for n in range(6)]
    task = read_local_task(write_task(tmp_path / "whole", train=whole, validation=whole, test=whole), 0.5)
    assert task.classes == [0, 1, 2]
    assert task.purposes.train.texts[0] == ("a", "b")
    fractions = [{"sentence1": "a", "sentence2": "b", "label": n / 2} for n in range(6)]
    task = read_local_task(write_task(tmp_path / "fractions", train=fractions, validation=fractions, test=whole), 0.5)
    assert task.classes is None
    assert task.purposes.reported[""].targets_N.tolist() == [0, 1, 2, 0, 1, 2]


def test_test_is_reported_and_validation_selects(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "t", train=rows(20, 1), validation=rows(6, 2), test=rows(8, 3))
    purposes = read_local_task(folder, 0.1).purposes
    assert [t for (t,) in purposes.choice.texts] == [row["text"] for row in rows(6, 2)]
    assert [t for (t,) in purposes.reported[""].texts] == [row["text"] for row in rows(8, 3)]
    assert len(purposes.train) == 20


@pytest.mark.parametrize("reported", ["validation", "test"])
def test_held_out_training_items_select_without_a_split_for_it(tmp_path: Path, reported: str) -> None:
    items = [{"text": f"{n}", "label": n % 2} for n in range(40)]
    purposes = read_local_task(
        write_task(tmp_path / "t", train=items, **{reported: rows(8, 3, labels=(0, 1))}), 0.2
    ).purposes
    trained, selecting = set(purposes.train.texts), set(purposes.choice.texts)
    assert (len(trained), len(selecting), len(trained | selecting)) == (32, 8, 40)
    assert purposes.choice.targets_N.sum() == 4  # stratified by class
    assert [t for (t,) in purposes.reported[""].texts] == [row["text"] for row in rows(8, 3)]


def test_class_with_one_item_is_kept_in_training() -> None:
    split = Split([(str(n),) for n in range(11)], np.array([0] * 10 + [1]))
    train, held = hold_out(split, 0.3, is_regression=False)
    assert sorted(train.targets_N.tolist()) == [0] * 7 + [1]
    assert held.targets_N.tolist() == [0] * 3


def test_subset_contains_every_class() -> None:
    split = Split([(str(n),) for n in range(1000)], np.array([0] * 998 + [1, 2]))
    drawn = draw_items(split, 10, is_regression=False)
    assert len(drawn) == 10
    assert set(drawn.targets_N.tolist()) == {0, 1, 2}
    assert drawn.texts == draw_items(split, 10, is_regression=False).texts
    assert len(draw_items(split, 0, is_regression=False)) == len(draw_items(split, 5000, is_regression=False)) == 1000


def test_the_checksum_follows_every_text_and_label(tmp_path: Path) -> None:
    def checksum(name: str, **changed: Any) -> str:
        test = rows(4, 3)
        test[3] |= changed
        return read_local_task(write_task(tmp_path / name, train=rows(8, 1), test=test), 0.2).purposes.checksum

    assert checksum("a") == checksum("b")
    assert len({checksum("a"), checksum("c", text="other"), checksum("d", label="cat")}) == 3


GOOD = json.dumps({"text": "a", "label": "x"}) + "\n" + json.dumps({"text": "b", "label": "y"}) + "\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"text": "a"}', ["train.jsonl:3", "'label'", "'text'"]),
        ('{"label": "x", "body": "a"}', ["train.jsonl:3", "'text'", "'label', 'body'"]),
        ('{"text": 7, "label": "x"}', ["train.jsonl:3", "text", "string", "7"]),
        ('{"text": "a", "label": 1}', ["train.jsonl:3", "label 1", "strings", "train.jsonl:1"]),
        ('{"text": "a", "label": null}', ["train.jsonl:3", "label None"]),
        ('{"text": "a", "label": true}', ["train.jsonl:3", "label True"]),
        ('{"text": "a", "label": NaN}', ["train.jsonl:3", "label nan", "finite"]),
        ('{"text": "a", "label"', ["train.jsonl:3", "JSON"]),
        ('["a", 1]', ["train.jsonl:3", "object"]),
    ],
)
def test_invalid_line_is_named(tmp_path: Path, line: str, words: list[str]) -> None:
    folder = write_task(tmp_path / "t", test=rows(4, 3))
    (folder / "train.jsonl").write_text(GOOD + line + "\n", encoding="utf-8")
    _assert_rejected(folder, words)


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ("", ["train.jsonl", "empty"]),
        ("\n\n", ["train.jsonl", "empty"]),
        ('{"body": "a", "label": 1}', ["train.jsonl:1", "premise and hypothesis", "'body', 'label'"]),
        ('{"premise": "a", "label": 1}', ["train.jsonl:1", "'hypothesis'", "'premise'"]),
        ('{"text": "a", "label": 1}', ["train.jsonl:1", "all 1 training labels are 1"]),
        ('{"text": "a", "label": 1}\n{"text": "b", "label": -1}', ["train.jsonl:2", "label -1", "below 0"]),
        ('{"text": "a", "label": 1}\n{"text": "b", "label": 0}', ["train.jsonl", "2 items are too few"]),
    ],
)
def test_invalid_file_is_named(tmp_path: Path, train: str, words: list[str]) -> None:
    folder = write_task(tmp_path / "t", validation=rows(4, 3, labels=(0, 1)))
    (folder / "train.jsonl").write_text(train, encoding="utf-8")
    _assert_rejected(folder, words)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (2, ["test.jsonl:2", "label 2", "does not occur in training, which has 0, 1"]),
        (-1, ["test.jsonl:2", "label -1", "does not occur"]),
        ("dog", ["test.jsonl:2", "label 'dog'", "does not occur"]),
        (1.0, ["test.jsonl:2", "label 1.0", "does not occur"]),
    ],
)
def test_label_absent_from_training_is_named(tmp_path: Path, label: Any, words: list[str]) -> None:
    test = [{"text": "a", "label": 1}, {"text": "b", "label": label}]
    _assert_rejected(write_task(tmp_path / "t", train=rows(8, 1, labels=(0, 1)), test=test), words)


def test_missing_file_is_named(tmp_path: Path) -> None:
    _assert_rejected(write_task(tmp_path / "a", test=rows(4, 1)), ["has no train.jsonl"])
    _assert_rejected(write_task(tmp_path / "b", train=rows(4, 1)), ["neither test.jsonl nor validation.jsonl"])
    folder = write_task(tmp_path / "c", train=rows(4, 1))
    (folder / "test.jsonl").write_bytes(b'{"text": "\xff"}')
    _assert_rejected(folder, ["test.jsonl", "UTF-8"])


def _assert_rejected(folder: Path, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_local_task(folder, 0.1)
    for word in words:
        assert word in str(caught.value)


def test_unknown_task_gets_a_suggestion(tmp_path: Path) -> None:
    write_task(tmp_path / "classification" / "trec", train=rows(8, 1), test=rows(4, 2))
    with pytest.raises(ConfigError, match=r"--tasks tre: .*did you mean trec\?"):
        build_tasks(tmp_path, tasks=("tre",))
    with pytest.raises(ConfigError, match="has no folder classification"):
        build_tasks(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learning_rates": (1e-3, 1e-3)}, "--classification-learning-rates 0.001 0.001"),
        ({"learning_rates": ()}, "--classification-learning-rates"),
        ({"seeds": (1, 1)}, "--seeds 1 1"),
        ({"seeds": (1, 2), "choice_seeds": 3}, "--classification-choice-seeds 3: there are only 2"),
        ({"pooling": "last"}, "--classification-pooling last"),
    ],
)
def test_invalid_protocols_are_rejected(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ClassificationProtocol(**values)
