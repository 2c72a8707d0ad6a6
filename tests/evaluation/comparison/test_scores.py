"""The score of a suite for a model, and when the paper's scores share its axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from megatron_ettin.evaluation.comparison.models import ComparedModel, compared_model
from megatron_ettin.evaluation.comparison.published import GENERATIVE
from megatron_ettin.evaluation.comparison.scores import intrinsic_panel, is_share, mean_of, metric_title, suite_panel
from megatron_ettin.evaluation.results import Measure, ModelResults, TaskResult
from megatron_ettin.evaluation.suites.generative.task import PUBLISHED_TASKS

from .results import answers, intrinsic, result

TEN = [name for task in GENERATIVE.values() for name in task.names]


def model(name: str, suite: str, tasks: Mapping[str, TaskResult], local: Sequence[str] = ()) -> ComparedModel:
    description = {"kind": "encoder", "parameters": 1000, "folder": "/nowhere", "checksum": name}
    settings: dict[str, dict[str, Any]] = {suite: {task: {} for task in tasks}}
    return compared_model(ModelResults(name, description, {suite: tasks}, settings, {suite: frozenset(local)}))


def shares(**scores: float) -> dict[str, TaskResult]:
    return {task: result(answers(share)) for task, share in scores.items()}


def test_score_is_the_mean_over_common_tasks() -> None:
    models = [
        model("a", "classification", shares(rte=0.5, sst2=0.7, cola=0.9)),
        model("b", "classification", shares(rte=0.6, sst2=0.9)),
        model("c", "retrieval", {}),
    ]
    panel = suite_panel("classification", models)
    assert panel.tasks == ["rte", "sst2"]
    assert {name: score.value for name, score in panel.scores.items()} == pytest.approx({"a": 60.0, "b": 75.0})
    assert (panel.title, panel.same_tasks) == ("mean of rte, sst2", False)


def test_interval_of_a_mean() -> None:
    # Half-widths 0.03 and 0.04 give 0.05 / 2 for the mean of two.
    mean = mean_of([Measure(0.5, 0.47, 0.53), Measure(0.7, 0.66, 0.74)])
    assert (mean.value, mean.low, mean.high) == pytest.approx((60.0, 57.5, 62.5))
    unknown = mean_of([Measure(0.5, math.nan, math.nan)])
    assert unknown.value == 50
    assert math.isnan(unknown.low)


def test_the_papers_task_is_used_if_all_models_have_it() -> None:
    models = [model(name, "classification", shares(mnli=0.6, sst2=0.9)) for name in "ab"]
    panel = suite_panel("classification", models)
    assert (panel.title, panel.same_tasks, panel.scores["a"].value) == ("MNLI accuracy", True, 60.0)
    incomplete = suite_panel("classification", [*models, model("c", "classification", shares(sst2=0.8))])
    assert (incomplete.same_tasks, incomplete.tasks) == (False, ["sst2"])


@pytest.mark.parametrize(
    ("suite", "names"), [("classification", ["mnli"]), ("retrieval", ["MSMARCO"]), ("generative", TEN)]
)
def test_local_file_is_never_the_papers_task(suite: str, names: Sequence[str]) -> None:
    tasks = shares(**dict.fromkeys(names, 0.6))
    hub = model("hub", suite, tasks)
    assert suite_panel(suite, [hub]).same_tasks
    panel = suite_panel(suite, [hub, model("own", suite, tasks, local=names[-1:])])
    assert (panel.same_tasks, panel.tasks) == (False, sorted(names))


def test_generative_average_needs_all_ten_tasks() -> None:
    assert set(TEN) == set(PUBLISHED_TASKS)
    ten = {task: result(answers(0.1 * index), "acc") for index, task in enumerate(TEN)}
    panel = suite_panel("generative", [model("a", "generative", ten | shares(blimp=1.0))])
    assert panel.same_tasks
    assert panel.scores["a"].value == pytest.approx(45.0)
    ten.pop("sciq")
    assert not suite_panel("generative", [model("a", "generative", ten)]).same_tasks


def test_no_common_task_and_no_results() -> None:
    apart = [model("a", "generative", shares(blimp=0.5)), model("b", "generative", shares(piqa=0.5))]
    panel = suite_panel("generative", apart)
    assert (dict(panel.scores), panel.missing) == ({}, "no task of generative\nthat all models have")
    assert suite_panel("retrieval", apart).missing == "no retrieval results"


def test_losses_and_undefined_values_are_not_scores() -> None:
    perplexity = TaskResult({"word_perplexity": Measure(80, 70, 90)}, "word_perplexity")
    undefined = TaskResult({"acc": Measure(math.nan, math.nan, math.nan)}, "acc")
    tasks = {"wikitext": perplexity, "empty": undefined, **shares(blimp=0.5)}
    assert suite_panel("generative", [model("a", "generative", tasks)]).tasks == ["blimp"]
    assert not any(map(is_share, ("validation_loss", "bits_per_byte", "perplexity", "nats")))
    assert all(map(is_share, ("accuracy", "masked_accuracy", "ndcg_at_10", "matthews", "spearman")))


def test_bits_per_byte_are_of_the_models_own_objective() -> None:
    panel = intrinsic_panel([model("a", "intrinsic", intrinsic(1.25, 2.0)), model("b", "bias", {})])
    assert {name: score.value for name, score in panel.scores.items()} == {"a": 1.25}
    assert panel.unit == "bits per byte"


def test_metric_titles() -> None:
    titles = [metric_title(name) for name in ("ndcg_at_10", "acc", "f1", "matthews", "exact_match")]
    assert titles == ["nDCG@10", "accuracy", "F1", "Matthews' correlation", "exact match"]
