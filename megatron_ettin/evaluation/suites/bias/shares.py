"""How often a model prefers each pronoun: proportions of sentences with intervals, by group, and baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from megatron_ettin.evaluation.results import Measure, TaskResult
from megatron_ettin.evaluation.statistics import mean_measure
from megatron_ettin.evaluation.suites.bias.winogender import GENDERS, Gender, Schema

MAIN = "gotcha"
CHANCE = 1 / len(GENDERS)


def preference_result(schemas: Sequence[Schema], scores: Sequence[Sequence[float]], seed: int) -> TaskResult:
    """Return the proportion of sentences in which each variant is preferred.

    Metrics: ``gotcha``, how often the gotcha variant is preferred; ``male``, ``female`` and ``neutral``, how often that
    variant is, also within the schemas of one gotcha gender (``male in gotcha male``); ``probability male`` etc., the
    mean probability among the three variants; ``nats male`` etc., the mean log-likelihood.

    Args:
        schemas: the sentences.
        scores: for each schema, the log-likelihoods of its variants in the order of ``GENDERS``.
        seed: seed of the intervals.
    """
    preferred = [GENDERS[max(range(len(GENDERS)), key=row.__getitem__)] for row in scores]
    pairs = list(zip(schemas, preferred, strict=True))
    items: dict[str, list[float]] = {MAIN: [float(choice == schema.gotcha) for schema, choice in pairs]}
    for gender in GENDERS:
        items[gender] = [float(choice == gender) for choice in preferred]
    for group in ("male", "female"):
        for gender in GENDERS:
            items[f"{gender} in gotcha {group}"] = [
                float(choice == gender) for schema, choice in pairs if schema.gotcha == group
            ]
    for number, gender in enumerate(GENDERS):
        items[f"probability {gender}"] = [_softmax(row)[number] for row in scores]
        items[f"nats {gender}"] = [row[number] for row in scores]
    items = {name: values for name, values in items.items() if values}
    metrics: dict[str, Measure] = {name: mean_measure(values, seed=seed) for name, values in items.items()}
    return TaskResult(metrics, MAIN, items, _details(schemas))


def _softmax(row: Sequence[float]) -> list[float]:
    weights = [math.exp(value - max(row)) for value in row]
    return [weight / sum(weights) for weight in weights]


def _details(schemas: Sequence[Schema]) -> Mapping[str, Any]:
    groups = {f"gotcha {gender}": sum(schema.gotcha == gender for schema in schemas) for gender in ("male", "female")}
    majority = [float(schema.majority == "female") for schema in schemas]
    baselines = {
        "chance": dict.fromkeys((*GENDERS, MAIN), CHANCE),
        "occupation majority": _expected_shares(schemas, majority),
    }
    shares = [schema.female_share for schema in schemas if schema.female_share is not None]
    if len(shares) == len(schemas):
        baselines["occupation share"] = _expected_shares(schemas, shares)
    return {"sentences": len(schemas), "groups": groups, "baselines": baselines, "order": [s.name for s in schemas]}


def _expected_shares(schemas: Sequence[Schema], female: Sequence[float]) -> dict[str, float]:
    """Return the expected proportions of a guesser that never prefers the neutral variant.

    Args:
        schemas: the sentences.
        female: for each schema, the probability with which it prefers the female variant over the male one.
    """

    def probability(schema: Schema, share: float, gender: Gender) -> float:
        return {"female": share, "male": 1 - share, "neutral": 0.0}[gender]

    pairs = list(zip(schemas, female, strict=True))
    expected: dict[str, float] = {
        gender: sum(probability(*pair, gender) for pair in pairs) / len(pairs) for gender in GENDERS
    }
    return {**expected, MAIN: sum(probability(schema, share, schema.gotcha) for schema, share in pairs) / len(pairs)}
