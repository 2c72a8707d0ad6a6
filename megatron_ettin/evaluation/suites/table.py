"""What an evaluation came to: tasks by models, the main metric with its interval, and what failed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from megatron_ettin.evaluation.suites.results import Measure
from megatron_ettin.evaluation.suites.runner import Outcome

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
