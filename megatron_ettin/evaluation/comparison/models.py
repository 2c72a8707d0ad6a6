"""The models of a comparison, grouped by size and by source, and the final model of each source."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.config.training import REVISION_PREFIXES
from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.models.kinds import KINDS, Kind
from megatron_ettin.evaluation.results import ModelResults, TaskResult

SAME_SIZE = 1.05
"""Models whose parameter counts differ by less than this factor are of one size; a head does not make another size."""

_PREFIXES = tuple(REVISION_PREFIXES.values())
_REVISION = re.compile(rf"({'|'.join(_PREFIXES)})(\d+)")


@dataclass(frozen=True)
class ComparedModel:
    """One model at one revision with its results."""

    name: str
    """The name of its folder of results."""
    kind: Kind
    parameters: int
    source: str
    """The name without the revision."""
    revision: str
    """Empty for main."""
    tokens: int | None
    """Of all phases of its training; None if unknown."""
    checksum: str
    suites: Mapping[str, Mapping[str, TaskResult]]
    settings: Mapping[str, Mapping[str, Mapping[str, Any]]]
    local: Mapping[str, frozenset[str]]
    """By suite, the tasks that were read from local files."""

    def has_local(self, suite: str, task: str) -> bool:
        """Whether this model was evaluated on a local file, whose name says nothing about its content."""
        return task in self.local.get(suite, ())

    @property
    def order(self) -> tuple[int, int]:
        """Key that sorts revisions in the order of training; main and other names come last."""
        match = _REVISION.fullmatch(self.revision)
        return (_PREFIXES.index(match[1]), int(match[2])) if match else (len(_PREFIXES), 0)


def compared_model(results: ModelResults) -> ComparedModel:
    """Return a model with its results, checked.

    Raises:
        ConfigError: model.json lacks a field or has an invalid one.
    """
    description = results.model
    try:
        kind, parameters, folder = description["kind"], int(description["parameters"]), Path(description["folder"])
        checksum = str(description["checksum"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{results.name}/model.json is damaged: {type(error).__name__} {error}") from error
    if kind not in KINDS or parameters < 1:
        raise ConfigError(
            f"{results.name}/model.json: kind {kind!r} with {parameters} parameters; kinds are {', '.join(KINDS)}"
        )
    source, _, revision = results.name.partition("@")
    return ComparedModel(
        name=results.name,
        kind=kind,
        parameters=parameters,
        source=source,
        revision=revision,
        tokens=_tokens_of(folder, revision),
        checksum=checksum,
        suites=results.suites,
        settings=results.settings,
        local=results.local,
    )


def _tokens_of(folder: Path, revision: str) -> int | None:
    """Return the tokens of a revision and all phases before it, from its release's CHECKPOINTS.csv; None if unknown."""
    places = (folder, folder.parent.parent / "main")  # of main, of a revision
    table = next((place / "CHECKPOINTS.csv" for place in places if (place / "CHECKPOINTS.csv").is_file()), None)
    if table is None:
        return None
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = [(row["revision"], row["phase"], int(row["tokens"])) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a figure can use the order of training instead
    ends: dict[str, int] = {}
    for name, phase, tokens in rows:  # in the order of training; each phase counts from zero
        ends[phase] = tokens
        if name == revision or (not revision and name == rows[-1][0]):
            return sum(ends.values())
    return None


def size_groups(models: Sequence[ComparedModel]) -> list[list[ComparedModel]]:
    """Return the models of each size, smallest size first; the kinds of one size are in the paper's order."""
    groups: list[list[ComparedModel]] = []
    for model in sorted(models, key=lambda model: model.parameters):
        if groups and model.parameters <= SAME_SIZE * groups[-1][0].parameters:
            groups[-1].append(model)
        else:
            groups.append([model])
    return [sorted(group, key=lambda model: KINDS.index(model.kind)) for group in groups]


def sources(models: Sequence[ComparedModel]) -> dict[tuple[str, Kind], list[ComparedModel]]:
    """Return the revisions of each source in the order of training."""
    revisions: dict[tuple[str, Kind], list[ComparedModel]] = {}
    for model in sorted(models, key=lambda model: (model.source, model.order)):
        revisions.setdefault((model.source, model.kind), []).append(model)
    return revisions


def final_models(models: Sequence[ComparedModel]) -> list[ComparedModel]:
    """Return one model for each source: main, or else its last evaluated revision.

    Raises:
        ConfigError: two sources are of one kind and size; a mean over them would hide how much runs differ, so the
            user has to choose one.
    """
    finals = [revisions[-1] for revisions in sources(models).values()]
    for group in size_groups(finals):
        seen: dict[Kind, ComparedModel] = {}
        for model in group:
            other = seen.setdefault(model.kind, model)
            if other is not model:
                same = " with the same weights" if model.checksum == other.checksum else ""
                raise ConfigError(
                    f"{other.name} and {model.name} are two {model.kind}s of one size{same}: "
                    "name the models to compare with --model"
                )
    return finals
