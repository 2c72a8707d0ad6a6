"""The suite from files to figures, on tiny random models of both kinds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ettin.cli import ToolParser
from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.models.subject import Subject
from megatron_ettin.evaluation.suites.classification.suite import SUITE
from megatron_ettin.evaluation.suites.classification.task import ClassificationTask
from tests.evaluation.suites.classification.tiny import Memory, build_tasks, release, rows, task_run, write_task

KINDS = ("encoder", "decoder")


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    return {kind: release(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def _task(folder: Path, *, flags: dict[str, Any] | None = None, **splits: Any) -> ClassificationTask:
    write_task(folder / "classification" / "animals", **splits)
    return build_tasks(folder, **(flags or {}))[0]


@pytest.mark.slow  # needs the extra [eval]
@pytest.mark.parametrize("kind", KINDS)
def test_what_can_be_told_is_learnt(kind: str, subjects: dict[str, Subject], tmp_path: Path) -> None:
    task = _task(tmp_path, flags={"seeds": (1, 2)}, train=rows(160, 1), validation=rows(30, 2), test=rows(50, 3))
    seen: list[tuple[str, int, int]] = []
    result = task.run(subjects[kind], task_run(seen=seen))
    assert result.main == "accuracy"
    assert result.main_measure.value > 0.8
    assert result.main_measure.low <= result.main_measure.value <= result.main_measure.high
    assert len(result.items["accuracy"]) == 50
    assert np.mean(result.items["accuracy"]) == pytest.approx(result.main_measure.value)
    assert np.mean(result.details["by_seed"]["accuracy"]) == pytest.approx(result.main_measure.value)
    assert result.details["accuracy_of_most_frequent_class"] == 0.5
    assert result.details["pooling"] == ("mean" if kind == "encoder" else "last")
    assert result.details["released_head"]
    assert [told[1:] for told in seen] == [(step, 240) for step in range(1, 241)]  # 20 a pass, 6 passes, 2 seeds


@pytest.mark.slow  # needs the extra [eval]
@pytest.mark.parametrize("kind", KINDS)
def test_shuffled_labels_are_not_learnt(kind: str, subjects: dict[str, Subject], tmp_path: Path) -> None:
    train = rows(120, 1)
    labels = [row["label"] for row in train]
    random.Random(5).shuffle(labels)
    shuffled = [{**row, "label": label} for row, label in zip(train, labels, strict=True)]
    task = _task(tmp_path, flags={"epochs": 3}, train=shuffled, validation=rows(10, 2), test=rows(100, 3))
    assert 0.25 < task.run(subjects[kind], task_run()).main_measure.value < 0.75


@pytest.mark.slow  # needs the extra [eval]
def test_pairs_of_three_classes_are_learnt(subjects: dict[str, Subject], tmp_path: Path) -> None:
    """Which animals the two texts name: the same, fox then dog, dog then fox."""

    def pairs(num_items: int, seed: int) -> list[dict[str, Any]]:
        names, first, second = ("fox", "dog"), rows(num_items, seed), rows(num_items, seed + 50)
        drawn = random.Random(seed)
        made = []
        for one, other in zip(first, (drawn.choice(second) for _ in first), strict=True):
            told = [next(name for name in names if name in row["text"].split()) for row in (one, other)]
            label = 0 if told[0] == told[1] else 1 + (told[0] == "dog")
            made.append({"premise": one["text"], "hypothesis": other["text"], "label": label})
        return made

    task = _task(tmp_path, train=pairs(240, 1), validation=pairs(20, 2), test=pairs(80, 3))
    assert task.run(subjects["encoder"], task_run()).main_measure.value > 0.7


@pytest.mark.slow  # needs the extra [eval]
@pytest.mark.parametrize("kind", KINDS)
def test_figures_are_learnt(kind: str, subjects: dict[str, Subject], tmp_path: Path) -> None:
    """Of a far-off mean and a small spread, which a fresh output could not reach in so few steps."""

    def figures(num_items: int, seed: int) -> list[dict[str, Any]]:
        return [{**row, "label": 1000 + 0.5 * row["label"]} for row in rows(num_items, seed, labels=(0, 1))]

    task = _task(tmp_path, train=figures(200, 1), validation=figures(20, 2), test=figures(60, 3))
    result = task.run(subjects[kind], task_run())
    assert set(result.metrics) == {"spearman", "pearson"}
    assert result.metrics["pearson"].value > 0.6
    assert result.items == {}


@pytest.mark.slow  # needs the extra [eval]
def test_test_labels_do_not_touch_the_choice(subjects: dict[str, Subject], tmp_path: Path) -> None:
    """With test labels exchanged, a rate at which nothing is learnt does far better there; it must not be chosen."""
    exchanged = rows(50, 3, labels=("dog", "cat"))
    flags = {"learning_rates": (1e-9, 1e-2), "epochs": 4}
    task = _task(tmp_path, flags=flags, train=rows(120, 1), validation=rows(30, 2), test=exchanged)
    result = task.run(subjects["encoder"], task_run())
    assert result.details["learning_rate"] == 1e-2
    assert result.main_measure.value < 0.2
    by_test = _task(tmp_path / "other", flags=flags, train=rows(120, 1), validation=exchanged, test=exchanged)
    assert by_test.run(subjects["encoder"], task_run()).details["learning_rate"] == 1e-9


@pytest.mark.slow  # needs the extra [eval]
def test_finished_trials_are_not_run_again(subjects: dict[str, Subject], tmp_path: Path) -> None:
    flags = {"learning_rates": (1e-3, 3e-3), "seeds": (1, 2, 3), "choice_seeds": 1, "epochs": 1}
    task = _task(tmp_path, flags=flags, train=rows(24, 1), validation=rows(8, 2), test=rows(8, 3))
    whole = Memory()
    expected = task.run(subjects["encoder"], task_run(whole))
    assert len(whole.computed) == 4  # two rates with the first seed, and the other seeds at one of them
    killed = Memory({part: whole.parts[part] for part in whole.computed[:2]})
    assert task.run(subjects["encoder"], task_run(killed)) == expected
    assert killed.computed == whole.computed[2:]
    assert task.run(subjects["encoder"], task_run(Memory())) == expected  # nor does anything depend on chance


def test_a_model_without_tokenizer_is_refused(tmp_path: Path) -> None:
    subject = release("encoder", tmp_path / "m", with_head=False)
    for path in subject.folder.glob("tokenizer*"):
        path.unlink()
    task = _task(tmp_path, train=rows(24, 1), validation=rows(8, 2), test=rows(8, 3))
    with pytest.raises(ConfigError, match=r"^--model \S+: transformers cannot load it: "):
        task.run(subject, task_run())


def test_results_depend_on_what_settings_name(tmp_path: Path) -> None:
    splits: dict[str, Any] = {"train": rows(24, 1), "validation": rows(8, 2), "test": rows(8, 3)}
    one = _task(tmp_path, **splits).settings
    assert one["items"] == {"train": 24, "choice": 8, "reported": 8}
    assert one["protocol"]["epochs"] == 6
    assert one["protocol"]["train_batch_size"] == 8
    assert _task(tmp_path / "b", **splits).settings == one
    assert _task(tmp_path / "c", flags={"epochs": 5}, **splits).settings != one
    fewer = _task(tmp_path / "d", flags={"train_items": 10, "test_items": 5}, **splits).settings
    assert fewer["items"] == {"train": 10, "choice": 5, "reported": 5}
    assert fewer["data_checksum"] != one["data_checksum"]


def test_flags_reach_the_protocol() -> None:
    parser = ToolParser("")
    SUITE.add_flags(parser.add_argument)
    given = {"learning-rates": ("1e-3", "2e-3"), "epochs": ("2",), "pooling": ("cls",)}
    told = vars(parser.parse([part for flag, values in given.items() for part in (f"--{SUITE.name}-{flag}", *values)]))
    from megatron_ettin.evaluation.suite import SuiteOptions
    from megatron_ettin.evaluation.suites.classification.protocol import Protocol

    found = Protocol.from_options(SuiteOptions(None, seeds=(7,), extra=told))
    assert (found.epochs, found.pooling, found.max_length, found.train_items) == (2, "cls", 256, 0)
    assert (found.learning_rates, found.seeds) == ([1e-3, 2e-3], (7,))


@pytest.mark.parametrize(
    "given",
    [
        ("--classification-learning-rates", "0"),
        ("--classification-learning-rates", "nan"),
        ("--classification-epochs", "0"),
        ("--classification-pooling", "last"),
        ("--classification-max-length", "4"),
        ("--classification-held-out-share", "1"),
        ("--classification-weight-decay", "-1"),
        ("--classification-train-items", "none"),
    ],
)
def test_flags_out_of_bounds_are_refused(given: tuple[str, str]) -> None:
    parser = ToolParser("")
    SUITE.add_flags(parser.add_argument)
    with pytest.raises(ValueError, match=given[0]):
        parser.parse(given)
