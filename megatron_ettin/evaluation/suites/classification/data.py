"""A labelled task in memory: texts or pairs of texts, what is right for each, and which split serves for what."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.errors import ConfigError

Label = int | float | str
_SHOWN = 10


@dataclass(frozen=True)
class GivenLabel:
    """A label, and where it stands, for messages: ``FILE:LINE``."""

    value: Label
    place: str


def check_label(value: object, place: str) -> Label:
    """Return a label that may be one.

    Raises:
        ConfigError: it is neither a number nor a string, or is not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ConfigError(f"{place}: label {value!r} must be a whole number, a string or, for a regression, a fraction")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{place}: label {value} is not finite")
    return value


@dataclass(frozen=True)
class LabelScheme:
    """What the training labels say a task is: a choice between classes, or a regression."""

    classes: Sequence[int | str] | None
    """Sorted; None in a regression."""

    @property
    def is_regression(self) -> bool:
        """Whether labels are figures."""
        return self.classes is None

    def number(self, labels: Sequence[GivenLabel]) -> NDArray[np.int64] | NDArray[np.float64]:
        """Return what a model learns: numbers of classes, or the figures themselves.

        Raises:
            ConfigError: a label does not occur in training, or is no number in a regression.
        """
        if self.classes is None:
            return np.array([_figure(label) for label in labels], dtype=np.float64)
        numbers = {name: number for number, name in enumerate(self.classes)}
        for label in labels:
            if label.value not in numbers or isinstance(label.value, float):
                shown = ", ".join(map(repr, self.classes[:_SHOWN])) + (", ..." if len(self.classes) > _SHOWN else "")
                raise ConfigError(f"{label.place}: label {label.value!r} does not occur in training, which has {shown}")
        return np.array([numbers[label.value] for label in labels], dtype=np.int64)  # type: ignore[index]


def read_scheme(train: Sequence[GivenLabel]) -> LabelScheme:
    """Tell from the training labels what the task is.

    Strings are classes, whole numbers are classes, and a fraction anywhere among numbers makes it a regression.

    Raises:
        ConfigError: strings and numbers are mixed, a class is below 0, or there is nothing to tell apart.
    """
    texts = [label for label in train if isinstance(label.value, str)]
    if texts and len(texts) < len(train):
        number = next(label for label in train if not isinstance(label.value, str))
        rule = "a number, but others are strings, as at"
        raise ConfigError(f"{number.place}: label {number.value!r} is {rule} {texts[0].place}")
    different = {label.value for label in train}
    if len(different) < 2:
        raise ConfigError(f"{train[0].place}: all {len(train)} training labels are {train[0].value!r}; two must differ")
    if any(isinstance(label.value, float) for label in train):
        return LabelScheme(None)
    for label in train:
        if isinstance(label.value, int) and label.value < 0:
            rule = "classes are numbered from 0, and -1 is how labels are hidden"
            raise ConfigError(f"{label.place}: label {label.value} is below 0; {rule}")
    return LabelScheme(sorted(different))  # type: ignore[arg-type]


def _figure(label: GivenLabel) -> float:
    if isinstance(label.value, str):
        raise ConfigError(f"{label.place}: label {label.value!r} is a string, but training labels are fractions")
    return float(label.value)


SPLIT_SEED = 0
"""Of what is drawn once and for all: the held-out share and the training subset. Seeds of trials do not move it."""
MOST_HELD_OUT = 2000
"""Items that are enough to choose a learning rate on; a tenth of MNLI would be twenty times as many."""

Text = tuple[str, ...]
"""One text, or a pair."""


@dataclass(frozen=True)
class Split:
    """Items in a fixed order. N items."""

    texts: Sequence[Text]
    targets_N: NDArray[np.int64] | NDArray[np.float64]
    """Numbers of classes, or figures in a regression."""

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: NDArray[np.int64]) -> Split:
        """Return some of the items in the order given."""
        return Split([self.texts[i] for i in indices], self.targets_N[indices])


@dataclass(frozen=True)
class Purposes:
    """Which items are trained on, chosen on and reported on, with words on where each comes from."""

    train: Split
    choice: Split
    """The learning rate is chosen on these."""
    reported: Mapping[str, Split]
    """By name; the main one is called ""."""
    origins: Mapping[str, str]

    @property
    def counts(self) -> dict[str, int]:
        """Number of items by purpose."""
        reported = {_named("reported", name): len(split) for name, split in self.reported.items()}
        return {"train": len(self.train), "choice": len(self.choice), **reported}

    @property
    def checksum(self) -> str:
        """SHA-256 over all texts and labels in their order."""
        digest = hashlib.sha256()
        for split in (self.train, self.choice, *self.reported.values()):
            digest.update(json.dumps([list(split.texts), split.targets_N.tolist()]).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class LabelledTask:
    """A task as it will be put to every model."""

    name: str
    classes: Sequence[int | str] | None
    """What the labels are called, in the order of their numbers; None in a regression."""
    purposes: Purposes
    is_local: bool = False
    """Whether it was read from files of the user's."""


def hold_out(train: Split, share: float, *, is_regression: bool) -> tuple[Split, Split]:
    """Split training items into those to train on and those to choose on, of every class the same share.

    A class of a single item stays whole in training. At most ``MOST_HELD_OUT`` items are held out.
    """
    generator = np.random.default_rng(SPLIT_SEED)
    share = min(share, MOST_HELD_OUT / len(train))
    groups = [np.arange(len(train))] if is_regression else _by_class(train)
    held_out = [generator.permutation(group)[: _held_out_of(len(group), share)] for group in groups]
    held = np.sort(np.concatenate(held_out))
    return train.take(np.setdiff1d(np.arange(len(train)), held)), train.take(held)


def draw_items(split: Split, num_items: int, *, is_regression: bool) -> Split:
    """Return at most ``num_items`` items, drawn at random, at least one of every class among them; 0 takes all."""
    if not num_items or num_items >= len(split):
        return split
    generator = np.random.default_rng(SPLIT_SEED)
    order = generator.permutation(len(split))
    if not is_regression:  # the first of each class come first
        _, firsts = np.unique(split.targets_N[order], return_index=True)
        order = np.concatenate([order[np.sort(firsts)], np.delete(order, firsts)])
    return split.take(np.sort(order[:num_items]))


def draw_purposes(purposes: Purposes, train_items: int, test_items: int, *, is_regression: bool) -> Purposes:
    """Return fewer items to train on, and fewer to choose on and to report on, as ``draw_items`` draws them."""
    return Purposes(
        draw_items(purposes.train, train_items, is_regression=is_regression),
        draw_items(purposes.choice, test_items, is_regression=is_regression),
        {n: draw_items(split, test_items, is_regression=is_regression) for n, split in purposes.reported.items()},
        purposes.origins,
    )


def _by_class(split: Split) -> list[NDArray[np.int64]]:
    return [np.flatnonzero(split.targets_N == label) for label in np.unique(split.targets_N)]


def _held_out_of(count: int, share: float) -> int:
    return min(max(round(count * share), 1), count - 1)


def _named(purpose: str, name: str) -> str:
    return f"{purpose} {name}" if name else purpose
