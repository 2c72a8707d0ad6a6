"""The models of a comparison: which are of one size, which are revisions of one source, which stand for a kind."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.models.kinds import KINDS, Kind
from megatron_ettin.evaluation.results import ModelResults, TaskResult

SAME_SIZE = 1.05
"""Models whose parameters differ by less than this factor count as one size: a head more or less is no other size."""

_PHASES = ("step", "ext", "decay", "cross")
"""What a revision's name begins with, in the order of training."""
_REVISION = re.compile(rf"({'|'.join(_PHASES)})(\d+)")


@dataclass(frozen=True)
class ComparedModel:
    """One model at one revision with its results."""

    name: str
    """Of its folder of results."""
    kind: Kind
    parameters: int
    source: str
    """The name without the revision."""
    revision: str
    """Empty for main."""
    tokens: int | None
    """Of all phases of its training; None where nothing tells."""
    checksum: str
    suites: Mapping[str, Mapping[str, TaskResult]]
    settings: Mapping[str, Mapping[str, Mapping[str, Any]]]
    local: Mapping[str, frozenset[str]]
    """By suite, the tasks of the user's own files."""

    def has_local(self, suite: str, task: str) -> bool:
        """Whether this model was put to a file of the user's: its name says nothing about what is in it then."""
        return task in self.local.get(suite, ())

    @property
    def order(self) -> tuple[int, int]:
        """Sorts the revisions of one source in the order of training; main, and names that tell nothing, come last."""
        told = _REVISION.fullmatch(self.revision)
        return (_PHASES.index(told[1]), int(told[2])) if told else (len(_PHASES), 0)


def compared_model(results: ModelResults) -> ComparedModel:
    """Read what a comparison needs of a model's results.

    Raises:
        ConfigError: the description lacks something or holds what cannot be.
    """
    told = results.model
    try:
        kind, parameters, folder = told["kind"], int(told["parameters"]), Path(told["folder"])
        checksum = str(told["checksum"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{results.name}/model.json is damaged: {type(error).__name__} {error}") from error
    if kind not in KINDS or parameters < 1:
        raise ConfigError(
            f"{results.name}/model.json: kind {kind!r} with {parameters} parameters; kinds are {', '.join(KINDS)}"
        )
    source, _, revision = results.name.partition("@")
    tokens = _tokens_of(folder, revision)
    return ComparedModel(
        results.name,
        kind,
        parameters,
        source,
        revision,
        tokens,
        checksum,
        results.suites,
        results.settings,
        results.local,
    )


def _tokens_of(folder: Path, revision: str) -> int | None:
    """Return the tokens of a revision and all phases before it, as CHECKPOINTS.csv of its release tells them."""
    places = (folder, folder.parent.parent / "main")  # of main, of one of a release's revisions
    table = next((place / "CHECKPOINTS.csv" for place in places if (place / "CHECKPOINTS.csv").is_file()), None)
    if table is None:
        return None
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = [(row["revision"], row["phase"], int(row["tokens"])) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the table is an extra: without it the order of training is enough
    ends: dict[str, int] = {}
    for name, phase, tokens in rows:  # in the order of training; each phase counts its own tokens
        ends[phase] = tokens
        if name == revision or (not revision and name == rows[-1][0]):
            return sum(ends.values())
    return None


def size_groups(models: Sequence[ComparedModel]) -> list[list[ComparedModel]]:
    """Return the models by size, from the smallest; kinds of one size are in the paper's order."""
    groups: list[list[ComparedModel]] = []
    for model in sorted(models, key=lambda model: model.parameters):
        if groups and model.parameters <= SAME_SIZE * groups[-1][0].parameters:
            groups[-1].append(model)
        else:
            groups.append([model])
    return [sorted(group, key=lambda model: KINDS.index(model.kind)) for group in groups]


def sources(models: Sequence[ComparedModel]) -> dict[tuple[str, Kind], list[ComparedModel]]:
    """Return the revisions of each source in the order of training."""
    found: dict[tuple[str, Kind], list[ComparedModel]] = {}
    for model in sorted(models, key=lambda model: (model.source, model.order)):
        found.setdefault((model.source, model.kind), []).append(model)
    return found


def final_models(models: Sequence[ComparedModel]) -> list[ComparedModel]:
    """Return one model for each source: main, or the last revision that was measured.

    Raises:
        ConfigError: two sources are of one kind and size. Which one should stand for the kind is the user's to say: a
            mean over them would hide how much runs differ.
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
