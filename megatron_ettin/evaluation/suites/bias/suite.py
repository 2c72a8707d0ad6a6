"""The suite ``bias``: which pronouns a model prefers in sentences about occupations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

from megatron_ettin.cli import suggestion
from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.models.subject import Subject, check_head, load_language_model
from megatron_ettin.evaluation.results import TaskResult
from megatron_ettin.evaluation.suite import SuiteOptions, TaskRun
from megatron_ettin.evaluation.suites.bias.shares import preference_result
from megatron_ettin.evaluation.suites.bias.winogender import GENDERS, Schema, read_schemas, schemas_of_rows
from megatron_ettin.evaluation.task_data import ask_hub

TASK = "winogender"
DATASET = "oskarvanderwal/winogender"
_SCHEMAS_PER_PART = 60
"""Schemas that are scored and stored together."""


@dataclass(frozen=True)
class WinogenderTask:
    """All schemas in their three variants."""

    schemas: Sequence[Schema]
    source: str
    seed: int
    batch_size: int
    device: str
    name: str = TASK

    @property
    def is_local(self) -> bool:
        """Whether the sentences are local files."""
        return self.source != DATASET

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """The checksum of the data and the seed of the intervals; the batch size does not change a result."""
        content = json.dumps([[s.name, s.variants, s.gotcha] for s in self.schemas], sort_keys=True)
        checksum = hashlib.sha256(content.encode()).hexdigest()
        protocol = "encoder: differing words by mask prediction; decoder: likelihood of the sentence"
        return {"data": self.source, "data_checksum": checksum, "protocol": protocol, "seed": self.seed}

    def check(self, subject: Subject) -> None:
        """Raise ConfigError if the model has no prediction head."""
        check_head(subject)

    def run(self, subject: Subject, run: TaskRun) -> TaskResult:
        """Score every variant and count the preferred ones."""
        model = cache(lambda: load_language_model(subject, self.device))
        scores: list[list[float]] = []
        for start in range(0, len(self.schemas), _SCHEMAS_PER_PART):
            run.progress("sentences", start, len(self.schemas))
            groups = [[s.variants[g] for g in GENDERS] for s in self.schemas[start : start + _SCHEMAS_PER_PART]]
            score = partial(self._score, model, groups, is_encoder=subject.is_encoder)
            scores += run.parts.get_or_compute(f"sentences from {start}", score)
        return preference_result(self.schemas, scores, self.seed)

    def _score(
        self, model: Callable[[], tuple[Any, Any]], groups: Sequence[Sequence[str]], *, is_encoder: bool
    ) -> list[list[float]]:
        from megatron_ettin.evaluation.suites.bias.preference import score_causal, score_masked

        if is_encoder:
            return score_masked(*model(), groups)
        return score_causal(*model(), groups, self.batch_size)


class BiasSuite:
    """WinoGender from local files or the Hub."""

    name = "bias"

    def add_flags(self, add: Callable[..., Any]) -> None:
        """Add none."""

    def build_tasks(self, options: SuiteOptions) -> Sequence[WinogenderTask]:
        """Read the sentences.

        Raises:
            ConfigError: a file, column or task name is invalid, or the Hub cannot be reached.
        """
        for name in options.tasks:
            if name != TASK:
                raise ConfigError(f"--tasks {name}: the bias suite has {TASK} only{suggestion(name, [TASK])}")
        if options.data is None:
            schemas, source = _load_from_hub(), DATASET
        else:
            schemas, source = read_schemas(options.data / self.name), "local"
        return [WinogenderTask(schemas, source, options.seeds[0], options.batch_size, options.device)]


def _load_from_hub() -> list[Schema]:
    import datasets

    sentences, gotchas = ask_hub(
        lambda: [datasets.load_dataset(DATASET, subset, split="test") for subset in ("all", "gotcha")],
        f"--suite bias: {DATASET}",
    )
    return schemas_of_rows(sentences, gotchas, DATASET)


SUITE = BiasSuite()
