"""The suite ``generative``: likelihoods and generation of continuations by lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from megatron_ettin.cli import count, positive
from megatron_ettin.evaluation.suite import SuiteOptions, Task
from megatron_ettin.evaluation.suites.generative import harness
from megatron_ettin.evaluation.suites.generative.local import (
    LocalTask,
    configure_local_task,
    find_local_tasks,
    read_local_task,
)
from megatron_ettin.evaluation.suites.generative.masked_inputs import ENCODER_PROTOCOLS
from megatron_ettin.evaluation.suites.generative.model import ScoringSettings
from megatron_ettin.evaluation.suites.generative.task import PUBLISHED_TASKS, GenerativeTask


class GenerativeSuite:
    """Tasks of lm-evaluation-harness, and local files in the format of BLiMP or PIQA."""

    name = "generative"

    def add_flags(self, add: Callable[..., Any]) -> None:
        """Add the limit and the flags of encoder scoring."""
        add(
            "--generative-limit", type=positive, metavar="N",
            help="at most N items of each task, evenly spaced; for a quick look",
        )  # fmt: skip
        add(
            "--generative-encoder-protocol", choices=ENCODER_PROTOCOLS, default=ENCODER_PROTOCOLS[0],
            help="score each token given the tokens before it, or (pll, for multiple-choice tasks) given all others",
        )  # fmt: skip
        add(
            "--generative-encoder-future-masks", type=count, metavar="N", default=0,
            help="[MASK] tokens after the one that an encoder predicts left to right; the paper's authors use 2",
        )  # fmt: skip

    def build_tasks(self, options: SuiteOptions) -> Sequence[Task]:
        """Read and check the data of all requested tasks; a name is a local file if there is one, else a harness task.

        Raises:
            ConfigError: a file, column, label or task name is invalid, or the Hub cannot be reached.
        """
        version = harness.harness_version()
        flags = options.flags_of(self.name)
        scoring = ScoringSettings(
            protocol=flags.get("encoder_protocol", ENCODER_PROTOCOLS[0]),
            future_masks=flags.get("encoder_future_masks", 0),
            batch_size=options.batch_size,
            device=options.device,
        )
        files = find_local_tasks(options.data) if options.data is not None else {}
        names = list(options.tasks) or list(files) or list(PUBLISHED_TASKS)
        # Cheap checks come first: files, then names; data of the Hub are loaded last.
        local = {name: read_local_task(name, files[name]) for name in names if name in files}
        for name in names:
            if name not in local:
                harness.check_name(name, files)
        limit = flags.get("limit")
        return [
            _build_local(local[name], scoring, limit, version)
            if name in local
            else _build_by_name(name, scoring, limit, version)
            for name in names
        ]


def _build_by_name(name: str, scoring: ScoringSettings, limit: int | None, version: str) -> GenerativeTask:
    members = harness.load_tasks(name, f"--tasks {name}", limit)
    origin = {"harness": version, "task": name, "sha256": {member.name: member.checksum for member in members}}
    return GenerativeTask(name, members, origin, scoring)


def _build_local(task: LocalTask, scoring: ScoringSettings, limit: int | None, version: str) -> GenerativeTask:
    rows = harness.spread_evenly(task.rows, limit)
    members = harness.load_tasks(configure_local_task(task.name, rows), f"--data {task.name}")
    origin = {"harness": version, "file": task.name, "sha256": task.checksum}
    groups = {column: [row[column] for row in rows] for column in task.group_columns}
    return GenerativeTask(task.name, members, origin, scoring, groups, is_local=True)


SUITE = GenerativeSuite()
