"""What a suite comes to for a model, and when the paper's scores may stand on the same axis."""

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
    told = {"kind": "encoder", "parameters": 1000, "folder": "/nowhere", "checksum": name}
    settings: dict[str, dict[str, Any]] = {suite: {task: {} for task in tasks}}
    return compared_model(ModelResults(name, told, {suite: tasks}, settings, {suite: frozenset(local)}))


def shares(**scores: float) -> dict[str, TaskResult]:
    return {task: result(answers(share)) for task, share in scores.items()}


def test_mean_over_the_tasks_that_all_have() -> None:
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
    # Half-widths 0.03 and 0.04 make 0.05 / 2 for the mean of two.
    told = mean_of([Measure(0.5, 0.47, 0.53), Measure(0.7, 0.66, 0.74)])
    assert (told.value, told.low, told.high) == pytest.approx((60.0, 57.5, 62.5))
    unknown = mean_of([Measure(0.5, math.nan, math.nan)])
    assert unknown.value == 50
    assert math.isnan(unknown.low)


def test_the_papers_task_alone_where_all_have_it() -> None:
    models = [model(name, "classification", shares(mnli=0.6, sst2=0.9)) for name in "ab"]
    panel = suite_panel("classification", models)
    assert (panel.title, panel.same_tasks, panel.scores["a"].value) == ("MNLI accuracy", True, 60.0)
    one_lacks_it = suite_panel("classification", [*models, model("c", "classification", shares(sst2=0.8))])
    assert (one_lacks_it.same_tasks, one_lacks_it.tasks) == (False, ["sst2"])


@pytest.mark.parametrize(
    ("suite", "names"), [("classification", ["mnli"]), ("retrieval", ["MSMARCO"]), ("generative", TEN)]
)
def test_ones_own_file_is_not_the_papers_task_whatever_its_name(suite: str, names: Sequence[str]) -> None:
    tasks = shares(**dict.fromkeys(names, 0.6))
    hub = model("hub", suite, tasks)
    assert suite_panel(suite, [hub]).same_tasks
    panel = suite_panel(suite, [hub, model("own", suite, tasks, local=names[-1:])])
    assert (panel.same_tasks, panel.tasks) == (False, sorted(names))


def test_generative_average_needs_all_ten() -> None:
    assert set(TEN) == set(PUBLISHED_TASKS)
    ten = {task: result(answers(0.1 * index), "acc") for index, task in enumerate(TEN)}
    panel = suite_panel("generative", [model("a", "generative", ten | shares(blimp=1.0))])
    assert panel.same_tasks
    assert panel.scores["a"].value == pytest.approx(45.0)
    ten.pop("sciq")
    assert not suite_panel("generative", [model("a", "generative", ten)]).same_tasks


def test_nothing_in_common_and_nothing_at_all() -> None:
    apart = [model("a", "generative", shares(blimp=0.5)), model("b", "generative", shares(piqa=0.5))]
    panel = suite_panel("generative", apart)
    assert (dict(panel.scores), panel.missing) == ({}, "no task of generative\nthat all models have")
    assert suite_panel("retrieval", apart).missing == "no retrieval results"


def test_losses_and_what_is_not_defined_are_no_scores() -> None:
    perplexity = TaskResult({"word_perplexity": Measure(80, 70, 90)}, "word_perplexity")
    undefined = TaskResult({"acc": Measure(math.nan, math.nan, math.nan)}, "acc")
    tasks = {"wikitext": perplexity, "empty": undefined, **shares(blimp=0.5)}
    assert suite_panel("generative", [model("a", "generative", tasks)]).tasks == ["blimp"]
    assert not any(map(is_share, ("validation_loss", "bits_per_byte", "perplexity", "nats")))
    assert all(map(is_share, ("accuracy", "masked_accuracy", "ndcg_at_10", "matthews", "spearman")))


def test_bits_per_byte_are_of_the_own_objective() -> None:
    panel = intrinsic_panel([model("a", "intrinsic", intrinsic(1.25, 2.0)), model("b", "bias", {})])
    assert {name: score.value for name, score in panel.scores.items()} == {"a": 1.25}
    assert panel.unit == "bits per byte"


def test_names_of_metrics() -> None:
    named = [metric_title(name) for name in ("ndcg_at_10", "acc", "f1", "matthews", "exact_match")]
    assert named == ["nDCG@10", "accuracy", "F1", "Matthews' correlation", "exact match"]
