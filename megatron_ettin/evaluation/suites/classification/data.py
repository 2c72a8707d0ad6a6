"""Labelled tasks in memory: labels as class numbers or regression targets, and splits by purpose."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.errors import ConfigError

SPLIT_SEED = 0
"""Draws the held-out items and subsets, which are the same for all models and training seeds."""
MAX_HELD_OUT = 2000
"""Items that suffice to select a learning rate; a tenth of MNLI would be twenty times as many."""
_MAX_CLASSES_SHOWN = 10

Label = int | float | str
Text = tuple[str, ...]
"""A text or a pair of texts."""


@dataclass(frozen=True)
class PlacedLabel:
    """A label with its position ``FILE:LINE`` for messages."""

    value: Label
    place: str


def check_label(value: object, place: str) -> Label:
    """Return a value that is valid as a label.

    Raises:
        ConfigError: it is neither a finite number nor a string.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ConfigError(f"{place}: label {value!r} must be a whole number, a string or, for a regression, a fraction")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{place}: label {value} is not finite")
    return value


@dataclass(frozen=True)
class LabelScheme:
    """The kind of task that the training labels define: classification or regression."""

    classes: Sequence[int | str] | None
    """Sorted; None for a regression."""

    @property
    def is_regression(self) -> bool:
        """Whether labels are numbers to predict."""
        return self.classes is None

    def encode(self, labels: Sequence[PlacedLabel]) -> NDArray[np.int64] | NDArray[np.float64]:
        """Return training targets: class numbers, or the values of a regression.

        Raises:
            ConfigError: a label does not occur in training, or is not a number in a regression.
        """
        if self.classes is None:
            return np.array([_regression_target(label) for label in labels], dtype=np.float64)
        numbers = {name: number for number, name in enumerate(self.classes)}
        for label in labels:
            if label.value not in numbers or isinstance(label.value, float):
                known = ", ".join(map(repr, self.classes[:_MAX_CLASSES_SHOWN]))
                more = ", ..." if len(self.classes) > _MAX_CLASSES_SHOWN else ""
                rule = f"does not occur in training, which has {known}{more}"
                raise ConfigError(f"{label.place}: label {label.value!r} {rule}")
        return np.array([numbers[label.value] for label in labels], dtype=np.int64)  # type: ignore[index]


def infer_scheme(train: Sequence[PlacedLabel]) -> LabelScheme:
    """Infer the kind of task from the training labels.

    Strings and whole numbers are classes; a fraction among numbers makes the task a regression.

    Raises:
        ConfigError: strings and numbers are mixed, a class is below 0, or all labels are equal.
    """
    texts = [label for label in train if isinstance(label.value, str)]
    if texts and len(texts) < len(train):
        number = next(label for label in train if not isinstance(label.value, str))
        rule = "a number, but others are strings, as at"
        raise ConfigError(f"{number.place}: label {number.value!r} is {rule} {texts[0].place}")
    distinct = {label.value for label in train}
    if len(distinct) < 2:
        raise ConfigError(f"{train[0].place}: all {len(train)} training labels are {train[0].value!r}; two must differ")
    if any(isinstance(label.value, float) for label in train):
        return LabelScheme(None)
    for label in train:
        if isinstance(label.value, int) and label.value < 0:
            rule = "classes are numbered from 0, and -1 marks hidden labels"
            raise ConfigError(f"{label.place}: label {label.value} is below 0; {rule}")
    return LabelScheme(sorted(distinct))  # type: ignore[arg-type]


def _regression_target(label: PlacedLabel) -> float:
    if isinstance(label.value, str):
        raise ConfigError(f"{label.place}: label {label.value!r} is a string, but training labels are fractions")
    return float(label.value)


@dataclass(frozen=True)
class Split:
    """Items in a fixed order. Shape suffix: N items."""

    texts: Sequence[Text]
    targets_N: NDArray[np.int64] | NDArray[np.float64]
    """Class numbers, or regression targets."""

    def __len__(self) -> int:
        return len(self.texts)

    def subset(self, indices: NDArray[np.int64]) -> Split:
        """Return the items with these indices, in that order."""
        return Split([self.texts[i] for i in indices], self.targets_N[indices])


@dataclass(frozen=True)
class Purposes:
    """The items for training, for selecting the learning rate and for reporting, with the origin of each."""

    train: Split
    choice: Split
    """Items that select the learning rate."""
    reported: Mapping[str, Split]
    """By name; the main split is named ""."""
    origins: Mapping[str, str]

    @property
    def counts(self) -> dict[str, int]:
        """Number of items by purpose."""
        reported = {f"reported {name}".rstrip(): len(split) for name, split in self.reported.items()}
        return {"train": len(self.train), "choice": len(self.choice), **reported}

    @property
    def checksum(self) -> str:
        """SHA-256 over all texts and labels in order."""
        digest = hashlib.sha256()
        for split in (self.train, self.choice, *self.reported.values()):
            digest.update(json.dumps([list(split.texts), split.targets_N.tolist()]).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class LabelledTask:
    """A labelled task, the same for all models."""

    name: str
    classes: Sequence[int | str] | None
    """Names of the classes in the order of their numbers; None for a regression."""
    purposes: Purposes
    is_local: bool = False
    """Whether the data are local files."""


def hold_out(train: Split, share: float, *, is_regression: bool) -> tuple[Split, Split]:
    """Split training items into items to train on and items to select on, stratified by class.

    A class with a single item is kept in training. At most ``MAX_HELD_OUT`` items are held out.
    """
    generator = np.random.default_rng(SPLIT_SEED)
    share = min(share, MAX_HELD_OUT / len(train))
    groups = [np.arange(len(train))] if is_regression else _indices_by_class(train)
    held_out = [generator.permutation(group)[: _num_held_out(len(group), share)] for group in groups]
    held = np.sort(np.concatenate(held_out))
    return train.subset(np.setdiff1d(np.arange(len(train)), held)), train.subset(held)


def draw_items(split: Split, num_items: int, *, is_regression: bool) -> Split:
    """Return at most ``num_items`` random items with at least one of every class; 0 returns all."""
    if not num_items or num_items >= len(split):
        return split
    generator = np.random.default_rng(SPLIT_SEED)
    order = generator.permutation(len(split))
    if not is_regression:  # move the first item of each class to the front
        _, firsts = np.unique(split.targets_N[order], return_index=True)
        order = np.concatenate([order[np.sort(firsts)], np.delete(order, firsts)])
    return split.subset(np.sort(order[:num_items]))


def draw_purposes(purposes: Purposes, train_items: int, test_items: int, *, is_regression: bool) -> Purposes:
    """Return at most ``train_items`` training items, and ``test_items`` each to select and to report on."""
    return Purposes(
        draw_items(purposes.train, train_items, is_regression=is_regression),
        draw_items(purposes.choice, test_items, is_regression=is_regression),
        {n: draw_items(split, test_items, is_regression=is_regression) for n, split in purposes.reported.items()},
        purposes.origins,
    )


def _indices_by_class(split: Split) -> list[NDArray[np.int64]]:
    return [np.flatnonzero(split.targets_N == label) for label in np.unique(split.targets_N)]


def _num_held_out(num_items: int, share: float) -> int:
    return min(max(round(num_items * share), 1), num_items - 1)
