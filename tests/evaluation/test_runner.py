"""Evaluation of models on tasks: failures are isolated, and finished tasks are reused."""

from __future__ import annotations

import errno
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation import runner
from megatron_ettin.evaluation.console import ProgressConsole
from megatron_ettin.evaluation.models.subject import Subject, open_subject
from megatron_ettin.evaluation.results import Measure, TaskResult, read_results
from megatron_ettin.evaluation.runner import Outcome, evaluate, result_table
from megatron_ettin.evaluation.suite import SuiteOptions, TaskRun
from tests.evaluation.saved import save_model


@dataclass
class CountingTask:
    """Counts the runs and returns the number of parameters; fails on request."""

    name: str
    fails: Exception | None = None
    refuses: str = ""
    """A kind of model that it rejects."""
    runs: list[str] = field(default_factory=list)
    settings: Mapping[str, Any] = field(default_factory=lambda: {"data": 1})
    is_local: bool = True

    def check(self, subject: Subject) -> None:
        if subject.kind == self.refuses:
            raise ConfigError(f"no {subject.kind} here")

    def run(self, subject: Subject, run: TaskRun) -> TaskResult:
        if self.fails:
            raise self.fails
        self.runs.append(subject.name)
        run.progress("counting", 1, 2)
        assert run.folder.is_dir()
        value = float(subject.parameters)
        return TaskResult({"parameters": Measure(value, value - 1, value + 1)}, "parameters")


@dataclass
class CountingSuite:
    name: str
    tasks: Sequence[CountingTask]
    broken: Exception | None = None

    def add_flags(self, add: Callable[..., Any]) -> None: ...

    def build_tasks(self, options: SuiteOptions) -> Sequence[CountingTask]:
        if self.broken:
            raise self.broken
        return [task for task in self.tasks if not options.tasks or task.name in options.tasks]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    return [str(save_model(kind, folder / kind)) for kind in ("encoder", "decoder")]


def run(
    models: Sequence[str], suites: Sequence[CountingSuite], output: Path, tasks: Sequence[str] = ()
) -> tuple[list[Outcome], str]:
    stream = io.StringIO()
    with ProgressConsole(stream) as console:
        outcomes = evaluate(models, suites, SuiteOptions(None, tasks), output, console)
    return outcomes, stream.getvalue()


def test_every_model_runs_every_task_once(models: list[str], tmp_path: Path) -> None:
    suite = CountingSuite("count", [CountingTask("one"), CountingTask("two")])
    outcomes, output = run(models, [suite], tmp_path)
    pairs = [(o.model, o.task) for o in outcomes]
    assert pairs == [(m, t) for m in ("encoder", "decoder") for t in ("one", "two")]
    assert "1/4 encoder count/one" in output
    again, _ = run(models, [suite], tmp_path)
    assert [task.runs for task in suite.tasks] == [["encoder", "decoder"]] * 2, "finished tasks are reused"
    assert [o.result.metrics for o in again if o.result] == [o.result.metrics for o in outcomes if o.result]
    suite.tasks[0].settings = {"data": 2}
    run(models, [suite], tmp_path)
    assert [len(task.runs) for task in suite.tasks] == [4, 2]


def test_failures_are_reported_and_the_others_continue(models: list[str], tmp_path: Path) -> None:
    good = CountingTask("good")
    tasks = [
        CountingTask("bad", fails=ConfigError("labels out of range")),
        CountingTask("picky", refuses="decoder"),
        good,
    ]
    missing = CountingSuite("broken", [], ConfigError("there is no file x.jsonl"))
    lacking = CountingSuite("lacking", [], ModuleNotFoundError("No module named 'mteb'", name="mteb"))
    old = CountingSuite("old", [], ImportError("Using the `Trainer` requires\n`accelerate>=1.1.0`"))
    outcomes, output = run([*models, "/no/such"], [missing, lacking, old, CountingSuite("count", tasks)], tmp_path)
    assert good.runs == ["encoder", "decoder"]
    failed = [str(o) for o in outcomes if o.error]
    assert failed == [
        "--model /no/such: there is no such folder, and it is not a name on the Hub",
        "encoder, broken: there is no file x.jsonl",
        "decoder, broken: there is no file x.jsonl",
        "encoder, lacking: needs the package mteb: pip install 'megatron_ettin[eval]'",
        "decoder, lacking: needs the package mteb: pip install 'megatron_ettin[eval]'",
        *(
            f"{kind}, old: needs a package (Using the `Trainer` requires `accelerate>=1.1.0`): pip install "
            "'megatron_ettin[eval]'"
            for kind in ("encoder", "decoder")
        ),
        "encoder, count/bad: labels out of range",
        "decoder, count/bad: labels out of range",
        "decoder, count/picky: no decoder here",
    ]
    assert [line.removeprefix("error: ") for line in output.splitlines() if line.startswith("error: ")] == failed
    assert [result.name for result in read_results(tmp_path)] == ["decoder", "encoder"]


def test_no_tasks_are_built_without_models(tmp_path: Path) -> None:
    suite = CountingSuite("count", [], ZeroDivisionError("built"))
    outcomes, _ = run(["/no/such", "/no/such"], [suite], tmp_path)
    assert len(outcomes) == 1


def test_unreadable_model_is_left_out(models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(given: str) -> Subject:
        if given == models[0]:
            raise PermissionError(errno.EACCES, "Permission denied", f"{given}/model.safetensors")
        return open_subject(given)

    monkeypatch.setattr(runner, "open_subject", read)
    good = CountingTask("good")
    outcomes, _ = run(models, [CountingSuite("count", [good])], tmp_path)
    assert good.runs == ["decoder"]
    message = f"--model {models[0]}: {models[0]}/model.safetensors: Permission denied"
    assert [str(o) for o in outcomes if o.error] == [message]


@pytest.mark.parametrize(
    "bug", [ZeroDivisionError("ours"), ImportError("cannot import name", name="megatron_ettin.evaluation.x")]
)
def test_bugs_are_not_hidden(bug: Exception, models: list[str], tmp_path: Path) -> None:
    suite = CountingSuite("count", [CountingTask("bad", fails=bug)])
    with pytest.raises(type(bug)):
        run(models, [suite], tmp_path)


def test_tasks_need_a_suite_if_there_are_several(models: list[str], tmp_path: Path) -> None:
    first, second = (CountingSuite(name, [CountingTask("one"), CountingTask("two")]) for name in ("x", "y"))
    run(models[:1], [first, second], tmp_path, ["x/two"])
    assert [len(task.runs) for suite in (first, second) for task in suite.tasks] == [0, 1, 0, 0]
    with pytest.raises(ConfigError, match="--tasks two: with several suites, name the suite too, as in x/two"):
        run(models, [first, second], tmp_path, ["two"])
    with pytest.raises(ConfigError, match="--tasks z/two: --suite requests x, y, not z"):
        run(models, [first, second], tmp_path, ["z/two"])


def test_table_shows_values_and_failures() -> None:
    def outcome(model: str, task: str, value: float | None, low: float = 0.1, error: str = "") -> Outcome:
        result = None if value is None else TaskResult({"accuracy": Measure(value, low, 0.9)}, "accuracy")
        return Outcome(model, "s", task, result, error)

    table = result_table(
        [outcome("m1", "a", 0.5), outcome("m2", "a", None, error="no head"), outcome("m1", "b", 0.25, math.nan)]
    )
    assert table.splitlines() == [
        "task  metric    m1                    m2",
        "s/a   accuracy  0.500 [0.100, 0.900]  failed",
        "s/b   accuracy  0.250                 -",
        "",
        "failed: m2, s/a: no head",
    ]
