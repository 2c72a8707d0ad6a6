"""Models times suites times tasks: what is finished is kept, what fails is told, and the others go on."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version

from megatron_ettin.errors import ConfigError, one_line
from megatron_ettin.evaluation.console import Screen
from megatron_ettin.evaluation.models.subject import Subject, open_subject
from megatron_ettin.evaluation.results import Measure, TaskResult
from megatron_ettin.evaluation.store import ResultStore
from megatron_ettin.evaluation.suite import Suite, SuiteOptions, Task, TaskRun

_LIBRARIES = (
    *("megatron_ettin", "torch", "transformers", "tokenizers", "numpy", "datasets", "scikit-learn"),
    *("sentence-transformers", "mteb", "lm_eval"),
)


_TOLD = (ConfigError, OSError, ImportError)
"""What is not a mistake of ours: it ends a model, suite or task, and the others go on."""


@dataclass(frozen=True)
class Outcome:
    """What came of one model in one task."""

    model: str
    suite: str
    task: str
    """Empty where the suite's tasks could not be built, or the model not be opened."""
    result: TaskResult | None = None
    error: str = ""
    """Why there is no result."""

    def __str__(self) -> str:
        """Say what failed and why, in one line."""
        if not self.suite:
            return self.error  # names the model itself
        return f"{self.model}, {'/'.join(filter(None, (self.suite, self.task)))}: {self.error}"


@dataclass
class _Work:
    """What is to be done, and what was found impossible before anything was computed."""

    jobs: list[tuple[Subject, Suite, Task]] = field(default_factory=list)
    failed: list[Outcome] = field(default_factory=list)


def evaluate(
    models: Sequence[str], suites: Sequence[Suite], options: SuiteOptions, output: Path, screen: Screen
) -> list[Outcome]:
    """Put every model to every task, and return what came of each.

    Wrong input ends one model, suite or task; it is told in a line and the others go on.

    Args:
        models: FOLDER, NAME, each with @REVISION or without.
        suites: which.
        options: what the command line gave; tasks as SUITE/TASK, or TASK where there is one suite.
        output: where results are written, and found.
        screen: is told how far it is.

    Raises:
        ConfigError: a task is named without a suite, or with one that is not asked for.
    """
    _quieten_libraries()
    tasks_of = {suite.name: _tasks_of(suite, suites, options.tasks) for suite in suites}
    work = _plan(models, suites, options, tasks_of, screen)
    outcomes = work.failed
    for number, (subject, suite, task) in enumerate(work.jobs, start=1):
        screen.begin(f"{subject.name} {suite.name}/{task.name}", number, len(work.jobs))
        outcome = _run(subject, suite, task, output, screen)
        if outcome.error:
            screen.note(f"error: {outcome}")
        outcomes.append(outcome)
    return outcomes


def _tasks_of(suite: Suite, suites: Sequence[Suite], wanted: Sequence[str]) -> tuple[str, ...]:
    names = [each.name for each in suites]
    own = []
    for given in wanted:
        name, _, task = given.rpartition("/")
        if not name and len(suites) > 1:
            raise ConfigError(f"--tasks {given}: with several suites name one, as {names[0]}/{given}")
        if name and name not in names:
            raise ConfigError(f"--tasks {given}: --suite asks for {', '.join(names)}, not for {name}")
        if name in ("", suite.name):
            own.append(task)
    return tuple(own)


def _plan(
    models: Sequence[str],
    suites: Sequence[Suite],
    options: SuiteOptions,
    tasks_of: Mapping[str, tuple[str, ...]],
    screen: Screen,
) -> _Work:
    """Open all models and build all tasks, so that what is wrong is told before hours of work."""
    work = _Work()
    subjects = []
    for given in dict.fromkeys(models):
        try:
            subjects.append(open_subject(given))
        except _TOLD as error:
            reason = str(error) if isinstance(error, ConfigError) else f"--model {given}: {_reason(error)}"
            work.failed.append(Outcome(given, "", "", error=reason))
    for suite in suites if subjects else ():
        if options.tasks and not tasks_of[suite.name]:
            continue
        try:
            tasks = suite.build_tasks(replace(options, tasks=tasks_of[suite.name]))
        except _TOLD as error:
            reason = _reason(error)
            work.failed += [Outcome(subject.name, suite.name, "", error=reason) for subject in subjects]
            continue
        work.jobs += [(subject, suite, task) for subject in subjects for task in tasks]
    # All of a model's tasks follow each other: its files are read once and stay in the machine's cache.
    work.jobs.sort(key=lambda job: subjects.index(job[0]))
    for outcome in work.failed:
        screen.note(f"error: {outcome}")
    return work


def _run(subject: Subject, suite: Suite, task: Task, output: Path, screen: Screen) -> Outcome:
    outcome = Outcome(subject.name, suite.name, task.name)
    try:
        store = ResultStore(output, subject, suite.name, library_versions())
        kept = store.finished(task.name, task.settings)
        if kept is not None:
            return replace(outcome, result=kept)
        task.check(subject)
        began = time.monotonic()
        parts = store.parts(task.name, task.settings)
        result = task.run(subject, TaskRun(parts, screen.show, store.trained_folder()))
        seconds = time.monotonic() - began
        store.keep(task.name, task.settings, result, seconds, is_local=task.is_local)
    except _TOLD as error:
        return replace(outcome, error=_reason(error))
    return replace(outcome, result=result)


def _reason(error: Exception) -> str:
    """Return one line for what was caught; a module of our own that cannot be imported is our mistake and goes on."""
    if isinstance(error, ImportError):
        if (error.name or "").startswith("megatron_ettin"):
            raise error
        # transformers says in a text, and without a name, which package it lacks.
        told = f"the package {error.name}" if error.name else f"a package ({one_line(error)})"
        return f"needs {told}: pip install 'megatron_ettin[eval]'"
    where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(f"{where}{text}".split()) or type(error).__name__


def library_versions() -> dict[str, str]:
    """Return the versions of Python and the libraries that results are computed with."""
    found = {"python": python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _quieten_libraries() -> None:
    """Keep the libraries' bars and chatter away from ours, unless the user asked for them."""
    for name, value in {
        "TQDM_DISABLE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_VERBOSITY": "error",  # without a network it warns of each of a dozen tries
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)


_NONE = "-"


_FAILED = "failed"


def result_table(outcomes: Sequence[Outcome]) -> str:
    """Return a line a task and a column a model, then a line for each failure."""
    models = list(dict.fromkeys(outcome.model for outcome in outcomes if outcome.task))
    tasks = list(dict.fromkeys((outcome.suite, outcome.task) for outcome in outcomes if outcome.task))
    cells = {(outcome.suite, outcome.task, outcome.model): _cell(outcome) for outcome in outcomes}
    rows = [("task", "metric", *models)]
    for suite, task in tasks:
        metric = next((o.result.main for o in outcomes if (o.suite, o.task) == (suite, task) and o.result), _NONE)
        rows.append((f"{suite}/{task}", metric, *(cells.get((suite, task, model), _NONE) for model in models)))
    lines = _aligned(rows) if tasks else []
    failed = [f"failed: {outcome}" for outcome in outcomes if outcome.error]
    return "\n".join([*lines, *([""] if lines and failed else []), *failed])


def _cell(outcome: Outcome) -> str:
    return _FAILED if outcome.result is None else spell(outcome.result.main_measure)


def spell(measure: Measure) -> str:
    """Return a figure, with its interval where one is known."""
    if math.isnan(measure.low):
        return f"{measure.value:.3f}"
    return f"{measure.value:.3f} [{measure.low:.3f}, {measure.high:.3f}]"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
