"""The suite ``generative``: what a model makes of the beginnings of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from megatron_ettin.cli import count, positive
from megatron_ettin.evaluation.suite import SuiteOptions, Task
from megatron_ettin.evaluation.suites.generative import harness
from megatron_ettin.evaluation.suites.generative.examinee import ExamSettings
from megatron_ettin.evaluation.suites.generative.local import (
    LocalTask,
    configure_local_task,
    find_local_tasks,
    read_local_task,
)
from megatron_ettin.evaluation.suites.generative.masked_frames import ENCODER_PROTOCOLS
from megatron_ettin.evaluation.suites.generative.task import PUBLISHED_TASKS, GenerativeTask


class GenerativeSuite:
    """Tasks of lm-evaluation-harness, and local files in the form of BLiMP or PIQA."""

    name = "generative"

    def add_flags(self, add: Callable[..., Any]) -> None:
        """Add what the suite can be told."""
        add(
            "--generative-limit", type=positive, metavar="N",
            help="only so many items of each task, spread evenly over it; for a quick look",
        )  # fmt: skip
        add(
            "--generative-encoder-protocol", choices=ENCODER_PROTOCOLS, default=ENCODER_PROTOCOLS[0],
            help="each token with what stands before it, or (pll, where choices are compared) with the "
            "whole rest of the text",
        )  # fmt: skip
        add(
            "--generative-encoder-future-masks", type=count, metavar="N", default=0,
            help="[MASK] after the token that an encoder guesses left to right; the paper's authors took 2",
        )  # fmt: skip

    def build_tasks(self, options: SuiteOptions) -> Sequence[Task]:
        """Find and check the data of all tasks: local files by their names first, then the harness's tasks.

        Raises:
            ConfigError: a file, column, label or task name is wrong, or the hub cannot be reached.
        """
        version = harness.harness_version()
        given = options.own(self.name)
        exam = ExamSettings(
            protocol=given.get("encoder_protocol", ENCODER_PROTOCOLS[0]),
            future_masks=given.get("encoder_future_masks", 0),
            batch_size=options.batch_size,
            device=options.device,
        )
        files = find_local_tasks(options.data) if options.data is not None else {}
        names = list(options.tasks) or list(files) or list(PUBLISHED_TASKS)
        # What is cheap to refuse comes first: files, then names, and data from the hub at the end.
        local = {name: read_local_task(name, files[name]) for name in names if name in files}
        for name in names:
            if name not in local:
                harness.check_name(name, files)
        limit = given.get("limit")
        return [
            _build_local(local[name], exam, limit, version)
            if name in local
            else _build_named(name, exam, limit, version)
            for name in names
        ]


def _build_named(name: str, exam: ExamSettings, limit: int | None, version: str) -> GenerativeTask:
    members = harness.load_tasks(name, f"--tasks {name}", limit)
    origin = {"harness": version, "task": name, "sha256": {member.name: member.checksum for member in members}}
    return GenerativeTask(name, members, origin, exam)


def _build_local(task: LocalTask, exam: ExamSettings, limit: int | None, version: str) -> GenerativeTask:
    rows = harness.spread_evenly(task.rows, limit)
    members = harness.load_tasks(configure_local_task(task.name, rows), f"--data {task.name}")
    origin = {"harness": version, "file": task.name, "sha256": task.checksum}
    groups = {column: [row[column] for row in rows] for column in task.group_columns}
    return GenerativeTask(task.name, members, origin, exam, groups, is_local=True)


SUITE = GenerativeSuite()
