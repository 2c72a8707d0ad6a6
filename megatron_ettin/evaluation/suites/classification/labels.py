"""Labels as files give them, and the numbers that a model learns: what is allowed, and what is mapped to what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.config.errors import ConfigError

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
