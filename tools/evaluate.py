"""Evaluate released models on suites of tasks; results are in OUTPUT/MODEL/SUITE.json, and finished ones are kept."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_ettin.cli import ToolParser, console_script, count, positive
from megatron_ettin.evaluation.suite import SuiteOptions
from megatron_ettin.evaluation.suites.all_suites import ALL, ALL_SUITES, choose_suites

_COMMON_OPTIONS = ("model", "suite", "data", "output", "tasks", "seeds", "batch_size", "device")


def build_parser() -> ToolParser:
    """Return the command line with the flags of all suites."""
    parser = ToolParser(__doc__ or "")
    add, names = parser.add_argument, [ALL, *(suite.name for suite in ALL_SUITES)]
    # A repeated flag extends its list; keeping only the last one would drop models silently.
    several: dict[str, Any] = {"nargs": "+", "action": "extend"}
    add("--model", required=True, metavar="M", help="folder or name on the Hub, optionally with @REVISION", **several)
    add("--suite", required=True, choices=names, help="all: every suite with data", **several)
    add("--data", type=Path, metavar="DIR", help="local data, a folder for each suite; by default the Hub's")
    add("--output", required=True, type=Path, metavar="DIR", help="results; finished tasks are not run again")
    add("--tasks", default=[], metavar="TASK", help="only these tasks; SUITE/TASK with several suites", **several)
    add("--seeds", nargs="+", type=count, default=[1, 2, 3], metavar="N", help="of sampling and training")
    add("--batch-size", type=positive, default=32, metavar="N", help="texts in a forward pass without training")
    add("--device", default="auto", choices=["auto", "cpu", "cuda"], help="auto: a GPU if there is one")
    for suite in ALL_SUITES:
        suite.add_flags(parser.add_argument_group(f"suite {suite.name}").add_argument)
    return parser


@console_script
def main(arguments: Sequence[str]) -> int:
    """Evaluate, print the table, and return 2 if something failed."""
    given = vars(build_parser().parse(arguments))
    from megatron_ettin.evaluation.console import ProgressConsole
    from megatron_ettin.evaluation.flags import choose_device
    from megatron_ettin.evaluation.runner import evaluate, result_table

    suites = choose_suites(given["suite"], given["data"])
    options = SuiteOptions(
        data=given["data"],
        tasks=given["tasks"],
        seeds=given["seeds"],
        batch_size=given["batch_size"],
        device=choose_device(given["device"]),
        extra={name: value for name, value in given.items() if name not in _COMMON_OPTIONS},
    )
    with ProgressConsole(sys.stderr) as console:
        outcomes = evaluate(given["model"], suites, options, given["output"], console)
    print(result_table(outcomes))
    return 2 if any(outcome.error for outcome in outcomes) else 0


if __name__ == "__main__":
    # Python adds this folder to its path, where this file would hide the library ``evaluate`` from lm-eval.
    sys.path[:] = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent]
    main()
