"""Local files of both formats on both kinds of model, against references by transformers."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.models.subject import Subject, open_subject
from megatron_ettin.evaluation.suite import SuiteOptions, TaskRun
from megatron_ettin.evaluation.suites.generative.harness import load_tasks
from megatron_ettin.evaluation.suites.generative.model import ScoringSettings
from megatron_ettin.evaluation.suites.generative.suite import SUITE
from megatron_ettin.evaluation.suites.generative.task import GenerativeTask
from tests.evaluation.suites.generative.tiny import (
    CHOICES,
    PAIRS,
    NoCache,
    causal,
    left_to_right,
    pseudo,
    silent_run,
    tokens_of,
    write_jsonl,
)
from tests.evaluation.tiny_models import released_model

pytestmark = [pytest.mark.slow]  # the harness is slow to import

SCORES = {"left-to-right": left_to_right, "pll": pseudo, "causal": causal}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "generative" / "pairs.jsonl", PAIRS)
    write_jsonl(tmp_path / "generative" / "choices.jsonl", CHOICES)
    return tmp_path


def build(data: Path | None, tasks: Sequence[str] = (), batch_size: int = 32, **flags: Any) -> dict[str, Any]:
    """Build tasks; flags are given without their prefix."""
    extra = {f"generative_{name}": value for name, value in flags.items()}
    options = SuiteOptions(data, tasks=tasks, batch_size=batch_size, extra=extra)
    return {task.name: task for task in SUITE.build_tasks(options)}


def likelihoods(kind: str, how: str, context: str, continuations: Sequence[str]) -> list[float]:
    before = tokens_of(context)
    scores = []
    for continuation in continuations:
        whole = tokens_of(f"{context} {continuation}")
        scores.append(SCORES[how](released_model(kind), whole[: len(before)], whole[len(before) :]))
    return scores


def pairs_by_hand(kind: str, how: str) -> list[float]:
    scores = [likelihoods(kind, how, "", [row["sentence_good"], row["sentence_bad"]]) for row in PAIRS]
    return [float(good > bad) for good, bad in scores]


def choices_by_hand(kind: str, how: str, *, by_length: bool) -> list[float]:
    items = []
    for row in CHOICES:
        answers = [str(row["sol1"]), str(row["sol2"])]
        scores = likelihoods(kind, how, f"Question: {row['goal']}\nAnswer:", answers)
        if by_length:
            scores = [likelihood / len(answer) for likelihood, answer in zip(scores, answers, strict=True)]
        items.append(float((scores[1] > scores[0]) == (row["label"] == 1)))
    return items


@pytest.mark.parametrize("batch_size", [1, 32])
@pytest.mark.parametrize(("kind", "how"), [("encoder", "left-to-right"), ("encoder", "pll"), ("decoder", "causal")])
def test_items_match_the_reference(
    subjects: dict[str, Subject], data: Path, kind: str, how: str, batch_size: int
) -> None:
    protocol = "pll" if how == "pll" else "left-to-right"
    tasks = build(data, batch_size=batch_size, encoder_protocol=protocol)
    suffix = "_pll" if how == "pll" else ""
    assert set(tasks) == {f"pairs{suffix}", f"choices{suffix}"}
    assert all(task.is_local for task in tasks.values())
    pairs = tasks[f"pairs{suffix}"].run(subjects[kind], silent_run())
    assert pairs.items["acc"] == pairs_by_hand(kind, how)
    choices = tasks[f"choices{suffix}"].run(subjects[kind], silent_run())
    assert choices.items["acc"] == choices_by_hand(kind, how, by_length=False)
    assert choices.items["acc_norm"] == choices_by_hand(kind, how, by_length=True)
    assert (pairs.main, choices.main) == ("acc", "acc_norm")
    for result in (pairs, choices):
        for metric, measure in result.metrics.items():
            items = result.items[metric]
            assert measure.value == pytest.approx(sum(items) / len(items))
            assert 0 <= measure.low <= measure.value <= measure.high <= 1


def test_pairs_are_reported_by_group(subjects: dict[str, Subject], data: Path) -> None:
    result = build(data, ["pairs"])["pairs"].run(subjects["encoder"], silent_run())
    items = pairs_by_hand("encoder", "left-to-right")
    by_field = {name: (group["value"], group["items"]) for name, group in result.details["by_field"].items()}
    assert by_field == {"syntax": (sum(items[:2]) / 2, 2), "meaning": (pytest.approx(sum(items[2:]) / 3), 3)}
    assert set(result.details["by_uid"]) == {"one", "two"}


def test_limit_selects_evenly_spaced_items(subjects: dict[str, Subject], data: Path) -> None:
    task = build(data, ["pairs"], limit=2)["pairs"]
    assert task.settings["items"] == 2
    items = pairs_by_hand("decoder", "causal")
    assert task.run(subjects["decoder"], silent_run()).items["acc"] == [items[0], items[2]]


def test_settings_differ_between_protocols(data: Path) -> None:
    plain, masks, both = (
        build(data, ["pairs"], **extra) for extra in ({}, {"encoder_future_masks": 2}, {"encoder_protocol": "pll"})
    )
    assert len({str(next(iter(tasks.values())).settings) for tasks in (plain, masks, both)}) == 3
    write_jsonl(data / "generative" / "pairs.jsonl", PAIRS[:4])
    assert build(data, ["pairs"])["pairs"].settings != plain["pairs"].settings


def test_finished_parts_are_reused(subjects: dict[str, Subject], data: Path) -> None:
    class DictCache(NoCache):
        def __init__(self) -> None:
            self.parts: dict[str, Any] = {}

        def get_or_compute(self, part: str, compute: Any) -> Any:
            if part not in self.parts:
                self.parts[part] = super().get_or_compute(part, compute)
            return self.parts[part]

    task, cache = build(data, ["pairs"])["pairs"], DictCache()
    updates: list[tuple[str, int, int]] = []
    run = TaskRun(cache, lambda what, done, total: updates.append((what, done, total)), data)
    first = task.run(subjects["encoder"], run)
    assert updates[-1] == ("pairs", 5, 5)
    assert [done for _, done, _ in updates] == sorted(done for _, done, _ in updates)
    cache.parts = {part: {**answer, "scores": {"acc": [1.0] * 5}} for part, answer in cache.parts.items()}
    assert task.run(subjects["encoder"], run).items["acc"] == [1.0] * 5 != first.items["acc"]


def test_harness_is_silent(
    subjects: dict[str, Subject], data: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for task in build(data).values():
        for subject in subjects.values():
            capfd.readouterr()
            with caplog.at_level(logging.WARNING):
                task.run(subject, silent_run())
            assert [record for record in caplog.records if record.name.startswith("lm_eval")] == []
            captured = capfd.readouterr()
            assert "Loading weights" in captured.err or captured.err == ""  # the progress bar of transformers, if any
            assert captured.out == ""


@pytest.mark.parametrize(
    ("given", "suggested"), [("helaswag", "hellaswag"), ("pica", "piqa"), ("arc_chalenge", "arc_challenge")]
)
def test_unknown_task_gets_suggestions(given: str, suggested: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"--tasks {given}: .* knows no such task; did you mean .*\b{suggested}\b.*\?"
    ):
        build(None, [given])


def test_unreachable_data_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub\n(offline)")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(
        ConfigError, match=r"^--tasks piqa: its data cannot be loaded \(Couldn't reach the Hub"
    ) as caught:
        build(None, ["piqa"])
    assert "\n" not in str(caught.value)


def test_unknown_task_next_to_local_files_gets_suggestions(data: Path) -> None:
    message = r"--tasks pears: .* knows no such task, nor is it a file \(choices, pairs\); did you mean pairs, "
    with pytest.raises(ConfigError, match=message):
        build(data, ["pairs", "pears"])


def test_model_without_head_is_rejected_before_loading(
    subjects: dict[str, Subject], data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "headless"
    shutil.copytree(subjects["encoder"].folder, folder)
    released_model("encoder").model.save_pretrained(folder)
    with pytest.raises(ConfigError, match="has no prediction head"):
        build(data, ["pairs"])["pairs"].check(open_subject(str(folder)))


def test_items_of_a_group_are_pooled(subjects: dict[str, Subject], data: Path) -> None:
    tasks = build(data)
    group = GenerativeTask("both", [*tasks["pairs"].members, *tasks["choices"].members], {}, ScoringSettings())
    result = group.run(subjects["decoder"], silent_run())
    pairs, choices = pairs_by_hand("decoder", "causal"), choices_by_hand("decoder", "causal", by_length=False)
    assert result.items == {"acc": [*pairs, *choices]}
    by_task = {name: (member["value"], member["items"]) for name, member in result.details["by_task"].items()}
    assert by_task == {"pairs": (sum(pairs) / 5, 5), "choices": (sum(choices) / 4, 4)}


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_metric_that_is_not_a_mean_over_items(subjects: dict[str, Subject], kind: str) -> None:
    import datasets

    texts = [str(row["sentence_good"]) for row in PAIRS]
    config = {
        "task": "texts",
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_dict({"text": texts})},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
    }
    members = load_tasks(config, "--tasks texts")
    result = GenerativeTask("texts", members, {}, ScoringSettings(protocol="pll")).run(subjects[kind], silent_run())
    score = left_to_right if kind == "encoder" else causal  # without choices, pll would reveal the answer
    nats = -sum(score(released_model(kind), [], tokens_of(text)) for text in texts)
    bits = nats / math.log(2) / sum(len(text.encode()) for text in texts)
    measure = result.metrics["bits_per_byte"]
    assert measure.value == pytest.approx(bits, rel=1e-5)
    assert measure.low < measure.value < measure.high
    assert result.items == {}
