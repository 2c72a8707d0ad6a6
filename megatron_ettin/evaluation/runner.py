"""Evaluate models on the tasks of suites: finished tasks are reused, and a failure does not stop the others."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version

from megatron_ettin.errors import ConfigError, one_line, os_error_line
from megatron_ettin.evaluation.console import ProgressConsole
from megatron_ettin.evaluation.models.subject import Subject, open_subject
from megatron_ettin.evaluation.results import Measure, TaskResult
from megatron_ettin.evaluation.store import ResultStore
from megatron_ettin.evaluation.suite import Suite, SuiteOptions, Task, TaskRun

_LIBRARIES = (
    *("megatron_ettin", "torch", "transformers", "tokenizers", "numpy", "datasets", "scikit-learn"),
    *("sentence-transformers", "mteb", "lm_eval"),
)
_USER_ERRORS = (ConfigError, OSError, ImportError)
"""Errors that are not bugs of this package: they end one model, suite or task, and the others continue."""
_EMPTY_CELL = "-"
_FAILED_CELL = "failed"


@dataclass(frozen=True)
class Outcome:
    """The outcome of one model on one task: a result or an error."""

    model: str
    suite: str
    task: str
    """Empty if the model could not be opened or the suite's tasks could not be built."""
    result: TaskResult | None = None
    error: str = ""
    """The reason why there is no result."""

    def __str__(self) -> str:
        """Describe the failure in one line."""
        if not self.suite:
            return self.error  # names the model itself
        return f"{self.model}, {'/'.join(filter(None, (self.suite, self.task)))}: {self.error}"


@dataclass
class _Plan:
    """The jobs to run, and the failures found before anything is computed."""

    jobs: list[tuple[Subject, Suite, Task]] = field(default_factory=list)
    failures: list[Outcome] = field(default_factory=list)


def evaluate(
    models: Sequence[str], suites: Sequence[Suite], options: SuiteOptions, output: Path, console: ProgressConsole
) -> list[Outcome]:
    """Evaluate every model on every task and return all outcomes.

    Invalid input ends one model, suite or task; it is reported in one line and the others continue.

    Args:
        models: folders or Hub names, optionally with @REVISION.
        suites: the suites to run.
        options: command-line options; tasks are SUITE/TASK, or TASK if there is one suite.
        output: folder of the results; finished tasks in it are reused.
        console: shows the progress.

    Raises:
        ConfigError: a task is given without its suite, or with a suite that is not requested.
    """
    _silence_libraries()
    tasks_of = {suite.name: _tasks_of(suite, suites, options.tasks) for suite in suites}
    plan = _plan(models, suites, options, tasks_of)
    for failure in plan.failures:
        console.print(f"error: {failure}")
    outcomes = plan.failures
    for number, (subject, suite, task) in enumerate(plan.jobs, start=1):
        console.start_task(f"{subject.name} {suite.name}/{task.name}", number, len(plan.jobs))
        outcome = _run(subject, suite, task, output, console)
        if outcome.error:
            console.print(f"error: {outcome}")
        outcomes.append(outcome)
    return outcomes


def _tasks_of(suite: Suite, suites: Sequence[Suite], requested: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the requested tasks that belong to a suite."""
    suite_names = [each.name for each in suites]
    names = []
    for given in requested:
        prefix, _, task = given.rpartition("/")
        if not prefix and len(suites) > 1:
            raise ConfigError(
                f"--tasks {given}: with several suites, name the suite too, as in {suite_names[0]}/{given}"
            )
        if prefix and prefix not in suite_names:
            raise ConfigError(f"--tasks {given}: --suite requests {', '.join(suite_names)}, not {prefix}")
        if prefix in ("", suite.name):
            names.append(task)
    return tuple(names)


def _plan(
    models: Sequence[str], suites: Sequence[Suite], options: SuiteOptions, tasks_of: Mapping[str, tuple[str, ...]]
) -> _Plan:
    """Open all models and build all tasks, so that errors are reported before hours of computation."""
    plan = _Plan()
    subjects = []
    for given in dict.fromkeys(models):
        try:
            subjects.append(open_subject(given))
        except _USER_ERRORS as error:
            reason = str(error) if isinstance(error, ConfigError) else f"--model {given}: {_reason(error)}"
            plan.failures.append(Outcome(given, "", "", error=reason))
    for suite in suites if subjects else ():
        if options.tasks and not tasks_of[suite.name]:
            continue
        try:
            tasks = suite.build_tasks(replace(options, tasks=tasks_of[suite.name]))
        except _USER_ERRORS as error:
            reason = _reason(error)
            plan.failures += [Outcome(subject.name, suite.name, "", error=reason) for subject in subjects]
            continue
        plan.jobs += [(subject, suite, task) for subject in subjects for task in tasks]
    # All tasks of a model follow each other, so that its files stay in the page cache.
    plan.jobs.sort(key=lambda job: subjects.index(job[0]))
    return plan


def _run(subject: Subject, suite: Suite, task: Task, output: Path, console: ProgressConsole) -> Outcome:
    """Return the stored result, or run the task and store its result."""
    outcome = Outcome(subject.name, suite.name, task.name)
    try:
        store = ResultStore(output, subject, suite.name, library_versions())
        stored = store.finished(task.name, task.settings)
        if stored is not None:
            return replace(outcome, result=stored)
        task.check(subject)
        start = time.monotonic()
        parts = store.parts(task.name, task.settings)
        result = task.run(subject, TaskRun(parts, console.update, store.trained_folder()))
        store.save(task.name, task.settings, result, time.monotonic() - start, is_local=task.is_local)
    except _USER_ERRORS as error:
        return replace(outcome, error=_reason(error))
    return replace(outcome, result=result)


def _reason(error: Exception) -> str:
    """Return one line for a user error; a failed import of a module of this package is a bug and is raised again."""
    if isinstance(error, ImportError):
        if (error.name or "").startswith("megatron_ettin"):
            raise error
        # transformers names the missing package in the message only.
        package = f"the package {error.name}" if error.name else f"a package ({one_line(error)})"
        return f"needs {package}: pip install 'megatron_ettin[eval]'"
    return os_error_line(error) if isinstance(error, OSError) else one_line(error)


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that results are computed with."""
    versions = {"python": python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _silence_libraries() -> None:
    """Disable the libraries' progress bars and messages, unless the user's environment enables them."""
    for name, value in {
        "TQDM_DISABLE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_VERBOSITY": "error",  # without a network it warns at each of a dozen retries
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)


def result_table(outcomes: Sequence[Outcome]) -> str:
    """Return a table with one row per task and one column per model, followed by one line per failure."""
    models = list(dict.fromkeys(outcome.model for outcome in outcomes if outcome.task))
    tasks = list(dict.fromkeys((outcome.suite, outcome.task) for outcome in outcomes if outcome.task))
    cells = {(outcome.suite, outcome.task, outcome.model): _cell(outcome) for outcome in outcomes}
    rows = [("task", "metric", *models)]
    for suite, task in tasks:
        metrics = (o.result.main for o in outcomes if (o.suite, o.task) == (suite, task) and o.result)
        values = (cells.get((suite, task, model), _EMPTY_CELL) for model in models)
        rows.append((f"{suite}/{task}", next(metrics, _EMPTY_CELL), *values))
    lines = _aligned(rows) if tasks else []
    failed = [f"failed: {outcome}" for outcome in outcomes if outcome.error]
    return "\n".join([*lines, *([""] if lines and failed else []), *failed])


def _cell(outcome: Outcome) -> str:
    return _FAILED_CELL if outcome.result is None else format_measure(outcome.result.main_measure)


def format_measure(measure: Measure) -> str:
    """Return a value to three decimals, with its interval if there is one."""
    if math.isnan(measure.low):
        return f"{measure.value:.3f}"
    return f"{measure.value:.3f} [{measure.low:.3f}, {measure.high:.3f}]"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
