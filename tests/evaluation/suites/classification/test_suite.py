"""The suite from files to results, on tiny random models of both kinds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ettin.cli import ToolParser
from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.models.subject import Subject
from megatron_ettin.evaluation.suites.classification.suite import SUITE, ClassificationTask
from tests.evaluation.suites.classification.tiny import MemoryCache, build_tasks, release, rows, task_run, write_task

KINDS = ("encoder", "decoder")


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    return {kind: release(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def _task(folder: Path, *, flags: dict[str, Any] | None = None, **splits: Any) -> ClassificationTask:
    write_task(folder / "classification" / "animals", **splits)
    return build_tasks(folder, **(flags or {}))[0]


@pytest.mark.slow  # needs the extra [eval]
@pytest.mark.parametrize("kind", KINDS)
def test_learnable_labels_are_learnt(kind: str, subjects: dict[str, Subject], tmp_path: Path) -> None:
    task = _task(tmp_path, flags={"seeds": (1, 2)}, train=rows(160, 1), validation=rows(30, 2), test=rows(50, 3))
    updates: list[tuple[str, int, int]] = []
    result = task.run(subjects[kind], task_run(updates=updates))
    assert result.main == "accuracy"
    assert result.main_measure.value > 0.8
    assert result.main_measure.low <= result.main_measure.value <= result.main_measure.high
    assert len(result.items["accuracy"]) == 50
    assert np.mean(result.items["accuracy"]) == pytest.approx(result.main_measure.value)
    assert np.mean(result.details["by_seed"]["accuracy"]) == pytest.approx(result.main_measure.value)
    assert result.details["accuracy_of_most_frequent_class"] == 0.5
    assert result.details["pooling"] == ("mean" if kind == "encoder" else "last")
    assert result.details["released_head"]
    steps = 240  # 20 per epoch, 6 epochs, 2 seeds
    assert [update[1:] for update in updates] == [(step, steps) for step in range(1, steps + 1)]


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
    """The label says which animals the two texts name: the same, fox then dog, or dog then fox."""

    def pairs(num_items: int, seed: int) -> list[dict[str, Any]]:
        names, first, second = ("fox", "dog"), rows(num_items, seed), rows(num_items, seed + 50)
        drawn = random.Random(seed)
        items = []
        for one, other in zip(first, (drawn.choice(second) for _ in first), strict=True):
            animals = [next(name for name in names if name in row["text"].split()) for row in (one, other)]
            label = 0 if animals[0] == animals[1] else 1 + (animals[0] == "dog")
            items.append({"premise": one["text"], "hypothesis": other["text"], "label": label})
        return items

    task = _task(tmp_path, train=pairs(240, 1), validation=pairs(20, 2), test=pairs(80, 3))
    assert task.run(subjects["encoder"], task_run()).main_measure.value > 0.7


@pytest.mark.slow  # needs the extra [eval]
@pytest.mark.parametrize("kind", KINDS)
def test_regression_is_learnt(kind: str, subjects: dict[str, Subject], tmp_path: Path) -> None:
    """Targets with a large mean and a small spread, which a random output could not reach in a few steps."""

    def regression_rows(num_items: int, seed: int) -> list[dict[str, Any]]:
        return [{**row, "label": 1000 + 0.5 * row["label"]} for row in rows(num_items, seed, labels=(0, 1))]

    task = _task(
        tmp_path, train=regression_rows(200, 1), validation=regression_rows(20, 2), test=regression_rows(60, 3)
    )
    result = task.run(subjects[kind], task_run())
    assert set(result.metrics) == {"spearman", "pearson"}
    assert result.metrics["pearson"].value > 0.6
    assert result.items == {}


@pytest.mark.slow  # needs the extra [eval]
def test_test_labels_do_not_influence_the_selection(subjects: dict[str, Subject], tmp_path: Path) -> None:
    """With swapped test labels, a rate at which nothing is learnt scores better there; it must not be selected."""
    swapped = rows(50, 3, labels=("dog", "cat"))
    flags = {"learning_rates": (1e-9, 1e-2), "epochs": 4}
    task = _task(tmp_path, flags=flags, train=rows(120, 1), validation=rows(30, 2), test=swapped)
    result = task.run(subjects["encoder"], task_run())
    assert result.details["learning_rate"] == 1e-2
    assert result.main_measure.value < 0.2
    by_test = _task(tmp_path / "other", flags=flags, train=rows(120, 1), validation=swapped, test=swapped)
    assert by_test.run(subjects["encoder"], task_run()).details["learning_rate"] == 1e-9


@pytest.mark.slow  # needs the extra [eval]
def test_finished_trials_are_reused(subjects: dict[str, Subject], tmp_path: Path) -> None:
    flags = {"learning_rates": (1e-3, 3e-3), "seeds": (1, 2, 3), "choice_seeds": 1, "epochs": 1}
    task = _task(tmp_path, flags=flags, train=rows(24, 1), validation=rows(8, 2), test=rows(8, 3))
    uninterrupted = MemoryCache()
    expected = task.run(subjects["encoder"], task_run(uninterrupted))
    assert len(uninterrupted.computed) == 4  # two rates with the first seed, and the other seeds at one rate
    killed = MemoryCache({part: uninterrupted.parts[part] for part in uninterrupted.computed[:2]})
    assert task.run(subjects["encoder"], task_run(killed)) == expected
    assert killed.computed == uninterrupted.computed[2:]
    assert task.run(subjects["encoder"], task_run(MemoryCache())) == expected  # and trials are deterministic


def test_model_without_tokenizer_is_rejected(tmp_path: Path) -> None:
    subject = release("encoder", tmp_path / "m", with_head=False)
    for path in subject.folder.glob("tokenizer*"):
        path.unlink()
    task = _task(tmp_path, train=rows(24, 1), validation=rows(8, 2), test=rows(8, 3))
    with pytest.raises(ConfigError, match=r"^--model \S+: transformers cannot load it: "):
        task.run(subject, task_run())


def test_settings_contain_what_a_result_depends_on(tmp_path: Path) -> None:
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
    flags = vars(parser.parse([part for flag, values in given.items() for part in (f"--{SUITE.name}-{flag}", *values)]))
    from megatron_ettin.evaluation.suite import SuiteOptions
    from megatron_ettin.evaluation.suites.classification.protocol import ClassificationProtocol

    protocol = ClassificationProtocol.from_options(SuiteOptions(None, seeds=(7,), extra=flags))
    assert (protocol.epochs, protocol.pooling, protocol.max_length, protocol.train_items) == (2, "cls", 256, 0)
    assert (protocol.learning_rates, protocol.seeds) == ([1e-3, 2e-3], (7,))


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
def test_flags_out_of_bounds_are_rejected(given: tuple[str, str]) -> None:
    parser = ToolParser("")
    SUITE.add_flags(parser.add_argument)
    with pytest.raises(ValueError, match=given[0]):
        parser.parse(given)
