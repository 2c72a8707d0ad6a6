"""GLUE tasks from the Hub: columns, splits and metrics. Small tables replace the Hub."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.suite import SuiteOptions
from megatron_ettin.evaluation.suites.classification.glue import check_names
from megatron_ettin.evaluation.suites.classification.suite import SUITE, ClassificationTask

pytestmark = pytest.mark.slow  # needs the extra [eval]

HIDDEN = -1

Hub = Callable[..., None]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Return a function that replaces the Hub by the splits of one task, or by an exception."""
    import datasets

    def replace(name: str, splits: Any) -> None:
        def load(*arguments: str) -> Any:
            assert arguments == ("nyu-mll/glue", name)
            if isinstance(splits, Exception):
                raise splits
            return datasets.DatasetDict(splits)

        monkeypatch.setattr(datasets, "load_dataset", load)

    return replace


def _split(columns: tuple[str, ...], label: Any, values: list[Any], mark: str) -> Any:
    import datasets

    texts = {column: [f"{mark} {column} {n}" for n in range(len(values))] for column in columns}
    features = {**{column: datasets.Value("string") for column in columns}, "label": label}
    return datasets.Dataset.from_dict({**texts, "label": values}, features=datasets.Features(features))


def _build(name: str) -> ClassificationTask:
    (task,) = SUITE.build_tasks(SuiteOptions(None, tasks=(name,), extra={"classification_held_out_share": 0.25}))
    return task


def test_mnli_reports_matched_and_mismatched(hub: Hub) -> None:
    import datasets

    columns, label = ("premise", "hypothesis"), datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
    values = {"train": [0, 1, 2] * 8, "validation_matched": [0, 1], "validation_mismatched": [2, 2, 1]}
    splits = {name: _split(columns, label, labels, name) for name, labels in values.items()}
    splits["test_matched"] = _split(columns, label, [HIDDEN] * 3, "hidden")
    hub("mnli", splits)
    task = _build("mnli")
    assert (task.metrics, task.is_local) == (("accuracy",), False)
    assert task.data.classes == ["entailment", "neutral", "contradiction"]
    purposes = task.data.purposes
    assert purposes.counts == {"train": 18, "choice": 6, "reported": 2, "reported mismatched": 3}
    assert purposes.reported[""].texts[1] == ("validation_matched premise 1", "validation_matched hypothesis 1")
    assert purposes.reported["mismatched"].targets_N.tolist() == [2, 2, 1]
    assert all(text.startswith("train") for pair in (*purposes.train.texts, *purposes.choice.texts) for text in pair)


def test_stsb_is_a_regression(hub: Hub) -> None:
    import datasets

    columns, label = ("sentence1", "sentence2"), datasets.Value("float32")
    splits = {
        "train": _split(columns, label, [n / 2 for n in range(8)], "train"),
        "validation": _split(columns, label, [0.5, 5.0], "validation"),
    }
    hub("stsb", splits)
    task = _build("stsb")
    assert (task.data.classes, task.metrics) == (None, ("spearman", "pearson"))
    assert task.data.purposes.reported[""].targets_N.tolist() == [0.5, 5.0]


@pytest.mark.parametrize(
    ("name", "columns", "metrics"),
    [
        ("cola", ("sentence",), ("matthews", "accuracy")),
        ("sst2", ("sentence",), ("accuracy",)),
        ("qqp", ("question1", "question2"), ("f1", "accuracy")),
        ("qnli", ("question", "sentence"), ("accuracy",)),
    ],
)
def test_columns_and_metrics_of_other_tasks(
    hub: Hub, name: str, columns: tuple[str, ...], metrics: tuple[str, ...]
) -> None:
    import datasets

    label = datasets.ClassLabel(names=["no", "yes"])
    hub(name, {part: _split(columns, label, [0, 1] * 4, part) for part in ("train", "validation")})
    task = _build(name)
    assert task.metrics == metrics
    assert task.data.purposes.reported[""].texts[0] == tuple(f"validation {column} 0" for column in columns)


def test_unreachable_hub_is_one_line(hub: Hub) -> None:
    hub("rte", ConnectionError("Couldn't reach 'nyu-mll/glue'\non the Hub"))
    with pytest.raises(ConfigError, match=r"--tasks rte: nyu-mll/glue cannot be loaded .*--data") as caught:
        _build("rte")
    assert "\n" not in str(caught.value)


def test_unknown_names_are_rejected_before_loading() -> None:
    with pytest.raises(ConfigError, match=r"--tasks sst-2: .*did you mean sst2\?"):
        _build("sst-2")
    assert check_names([]) == ["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte"]
    assert check_names(["wnli"]) == ["wnli"]
