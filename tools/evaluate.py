"""Put released models to suites of tasks; DIR/MODEL/SUITE.json holds what each came to, and is gone on from."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_ettin.cli import ToolParser, count, positive, run_tool
from megatron_ettin.evaluation.suite import SuiteOptions
from megatron_ettin.evaluation.suites.all_suites import ALL, ALL_SUITES, choose_suites

_NO_OPTIONS_OF_SUITES = ("model", "suite", "data", "output", "tasks", "seeds", "batch_size", "device")


def build_parser() -> ToolParser:
    """Return the command line with the flags of all suites."""
    parser = ToolParser(__doc__ or "")
    add, names = parser.add_argument, [ALL, *(suite.name for suite in ALL_SUITES)]
    # A flag given twice adds to what it named before: the last one alone would drop models without a word.
    several: dict[str, Any] = {"nargs": "+", "action": "extend"}
    add("--model", required=True, metavar="M", help="folder or name on the Hub, with @REVISION or without", **several)
    add("--suite", required=True, choices=names, help="all: every suite whose data are there", **several)
    add("--data", type=Path, metavar="DIR", help="local data, a folder for each suite; without it the Hub's by name")
    add("--output", required=True, type=Path, metavar="DIR", help="results; what is finished there is not run again")
    add("--tasks", default=[], metavar="TASK", help="only these; SUITE/TASK where there are several suites", **several)
    add("--seeds", nargs="+", type=count, default=[1, 2, 3], metavar="N", help="of whatever is drawn or trained")
    add("--batch-size", type=positive, default=32, metavar="N", help="texts in a pass that trains nothing")
    add("--device", default="auto", choices=["auto", "cpu", "cuda"], help="auto: a GPU where there is one")
    for suite in ALL_SUITES:
        suite.add_flags(parser.add_argument_group(f"suite {suite.name}").add_argument)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Evaluate, print the table, and return 2 where something failed."""
    given = vars(build_parser().parse(arguments))
    from megatron_ettin.evaluation.console import Screen
    from megatron_ettin.evaluation.flags import choose_device
    from megatron_ettin.evaluation.runner import evaluate, result_table

    suites = choose_suites(given["suite"], given["data"])
    options = SuiteOptions(
        data=given["data"],
        tasks=given["tasks"],
        seeds=given["seeds"],
        batch_size=given["batch_size"],
        device=choose_device(given["device"]),
        extra={name: value for name, value in given.items() if name not in _NO_OPTIONS_OF_SUITES},
    )
    with Screen(sys.stderr) as screen:
        outcomes = evaluate(given["model"], suites, options, given["output"], screen)
    print(result_table(outcomes))
    return 2 if any(outcome.error for outcome in outcomes) else 0


if __name__ == "__main__":
    # Python puts this folder on its path, where this file would hide the library ``evaluate`` from lm-eval.
    sys.path[:] = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent]
    run_tool(main)
