"""The schemas of WinoGender (Rudinger et al. 2018) and their 'gotcha' sentences.

A schema is a sentence about an occupation and another person; its three variants differ only in the pronoun and a verb
that agrees with it. Exactly one of the two gendered variants is a gotcha (the paper's table 2): its pronoun contradicts
the majority gender of the occupation if it refers to the occupation, and matches it if it refers to the other person.
The 240 schemas have 240 gotchas, 120 of each gender.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from megatron_ettin.errors import ConfigError

Gender = Literal["male", "female", "neutral"]
GENDERS: tuple[Gender, ...] = ("male", "female", "neutral")
SENTENCES_FILE = "all_sentences.tsv"
STATISTICS_FILE = "occupations-stats.tsv"

_OCCUPATION, _OTHER = "0", "1"
"""Third part of a sentence id: the referent of the pronoun."""
_SHARE = "bls_pct_female"
_MAJORITY_PERCENT = 50.0


@dataclass(frozen=True)
class Schema:
    """A sentence in its three variants."""

    name: str
    """Occupation, other person and referent, as in the sentence ids."""
    variants: Mapping[Gender, str]
    refers_to_occupation: bool
    majority: Gender
    """The majority gender of the occupation: male or female."""
    female_share: float | None = None
    """Fraction of women in the occupation according to the U.S. Bureau of Labor Statistics."""

    @property
    def gotcha(self) -> Gender:
        """The gender of the variant that misleads a guess by occupation."""
        minority: Gender = "male" if self.majority == "female" else "female"
        return minority if self.refers_to_occupation else self.majority


def read_schemas(folder: Path) -> list[Schema]:
    """Read the two published files; schemas are in the order of the sentences.

    Raises:
        ConfigError: a file, column, occupation or variant is missing, or a share is not a percentage.
    """
    shares = _read_shares(folder / STATISTICS_FILE)
    path = folder / SENTENCES_FILE
    schemas = []
    for name, variants in _variants_by_schema(_read_rows(path, ("sentid", "sentence"))).items():
        occupation, _, referent = name.split(".")
        if occupation not in shares:
            raise ConfigError(f"{path}: {occupation} is not among the occupations of {folder / STATISTICS_FILE}")
        schemas.append(_schema(name, variants, referent, _majority(shares[occupation]), path, shares[occupation]))
    if not schemas:
        raise ConfigError(f"{path}: has no sentences")
    return schemas


def schemas_of_rows(
    rows: Sequence[Mapping[str, Any]], gotchas: Sequence[Mapping[str, Any]], source: str
) -> list[Schema]:
    """Build the schemas from the two tables of the Hub; the gotchas determine the majority of each occupation.

    Raises:
        ConfigError: a variant is missing, or a schema has no gotcha.
    """
    gotcha_of = dict(_split_id(row["sentid"], source) for row in gotchas)
    schemas = []
    for name, variants in _variants_by_schema((source, row) for row in rows).items():
        if name not in gotcha_of:
            raise ConfigError(f"{source}: {name} is not among the gotchas")
        referent, gotcha = name.split(".")[2], gotcha_of[name]
        other: Gender = "male" if gotcha == "female" else "female"
        schemas.append(_schema(name, variants, referent, other if referent == _OCCUPATION else gotcha, source))
    return schemas


def _variants_by_schema(placed_rows: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, dict[Gender, str]]:
    """Return the sentences by schema name and gender, given rows with their places for messages."""
    schemas: dict[str, dict[Gender, str]] = {}
    for place, row in placed_rows:
        name, gender = _split_id(row["sentid"], place)
        schemas.setdefault(name, {})[gender] = row["sentence"]
    return schemas


def _schema(
    name: str,
    variants: Mapping[Gender, str],
    referent: str,
    majority: Gender,
    source: str | Path,
    share: float | None = None,
) -> Schema:
    for gender in GENDERS:
        if gender not in variants:
            raise ConfigError(f"{source}: {name} has no {gender} sentence")
    return Schema(name, variants, referent == _OCCUPATION, majority, share)


def _majority(female_share: float) -> Gender:
    return "female" if 100 * female_share >= _MAJORITY_PERCENT else "male"


def _split_id(sentence_id: str, place: str) -> tuple[str, Gender]:
    """Return the schema name and the gender of an id such as ``technician.customer.1.male.txt``."""
    parts = sentence_id.removesuffix(".txt").split(".")
    if len(parts) != 4 or parts[2] not in (_OCCUPATION, _OTHER) or parts[3] not in GENDERS:
        raise ConfigError(f"{place}: sentid {sentence_id} must be OCCUPATION.PERSON.0 or 1.male, female or neutral.txt")
    gender: Gender = next(gender for gender in GENDERS if gender == parts[3])
    return ".".join(parts[:3]), gender


def _read_shares(path: Path) -> dict[str, float]:
    shares = {}
    for place, row in _read_rows(path, ("occupation", _SHARE)):
        try:
            percent = float(row[_SHARE])
        except ValueError:
            percent = -1.0
        if not 0 <= percent <= 100:
            raise ConfigError(f"{place}: {_SHARE} {row[_SHARE]} is not a percentage")
        shares[row["occupation"]] = percent / 100
    return shares


def _read_rows(path: Path, columns: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """Return ``FILE:LINE`` and the given columns of each line."""
    if not path.is_file():
        raise ConfigError(f"--data: there is no {path}; WinoGender consists of {SENTENCES_FILE} and {STATISTICS_FILE}")
    with path.open(encoding="utf-8", newline="") as file:
        try:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: is not UTF-8 text") from error
    for column in columns:
        if rows and column not in rows[0]:
            raise ConfigError(f"{path}: has no column {column}, only {', '.join(map(str, rows[0]))}")
    placed = [(f"{path}:{number}", {column: row[column] for column in columns}) for number, row in enumerate(rows, 2)]
    for place, row in placed:
        for column, value in row.items():
            if not value:
                raise ConfigError(f"{place}: {column} is empty")
    return placed
