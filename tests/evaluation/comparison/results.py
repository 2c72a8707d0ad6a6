"""Results of invented models, in the form that tools/evaluate.py writes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megatron_ettin.evaluation.results import Measure, TaskResult, items_as_json

KINDS = ("encoder", "decoder", "encoder-from-decoder", "decoder-from-encoder")
Tasks = Mapping[str, Mapping[str, TaskResult]]


def result(
    items: Sequence[float],
    metric: str = "accuracy",
    half_width: float = 0.02,
    details: Mapping[str, Any] | None = None,
) -> TaskResult:
    """A task whose score is the mean of its items, plus or minus ``half_width``."""
    value = float(np.mean(items))
    measure = Measure(value, value - half_width, value + half_width)
    return TaskResult({metric: measure}, metric, {metric: list(items)}, details or {})


def answers(share: float, count: int = 400, shift: int = 0) -> list[float]:
    """Right and wrong items with the given share of right ones; another shift makes other items right."""
    right = round(share * count)
    return np.roll([1.0] * right + [0.0] * (count - right), shift).tolist()


def bias(male: float, female: float, gotcha: float, items: Sequence[float] = ()) -> TaskResult:
    shares = {"male": male, "female": female, "neutral": 1 - male - female, "gotcha": gotcha}
    metrics = {name: Measure(share, share - 0.05, share + 0.05) for name, share in shares.items()}
    baselines = {
        "chance": dict.fromkeys(shares, 1 / 3),
        "occupation majority": {"male": 0.6, "female": 0.4, "neutral": 0.0, "gotcha": 0.5},
        "occupation share": {"male": 0.55, "female": 0.45, "neutral": 0.0, "gotcha": 0.49},
    }
    return TaskResult(metrics, "gotcha", {"gotcha": list(items)} if items else {}, {"baselines": baselines})


def intrinsic(mlm: float, clm: float) -> dict[str, TaskResult]:
    return {
        name: TaskResult(
            {
                "bits_per_byte": Measure(bits, math.nan, math.nan),
                "validation_loss": Measure(bits * 3, math.nan, math.nan),
            },
            "bits_per_byte",
        )
        for name, bits in (("mlm", mlm), ("clm", clm))
    }


def write_model(
    output: Path,
    name: str,
    kind: str,
    parameters: int,
    suites: Tasks,
    *,
    settings: Mapping[str, Any] | None = None,
    folder: str = "/nowhere",
    checksum: str = "",
    local: bool = False,
) -> Path:
    """Write one model's folder in the form that ``docs/evaluation.md`` describes."""
    model = output / name
    model.mkdir(parents=True)
    description = {
        "given": name,
        "name": name,
        "folder": folder,
        "revision": name.partition("@")[2],
        "kind": kind,
        "parameters": parameters,
        "checksum": checksum or name,
        "has_head": True,
    }
    (model / "model.json").write_text(json.dumps(description))
    for suite, tasks in suites.items():
        items = model / "items" / suite
        items.mkdir(parents=True)
        for task, of_task in tasks.items():
            (items / f"{task}.json").write_text(json.dumps(items_as_json(of_task)))
        summaries = {
            task: {**of_task.summary(), "settings": settings or {"seeds": [1]}, "local": local}
            for task, of_task in tasks.items()
        }
        (model / f"{suite}.json").write_text(json.dumps({"suite": suite, "model": description, "tasks": summaries}))
    return model


_ADVANTAGE = {
    "encoder": (0.10, 0.06, 0.0),
    "decoder": (0.0, 0.0, 0.08),
    "encoder-from-decoder": (0.05, 0.05, 0.01),
    "decoder-from-encoder": (0.03, 0.0, 0.04),
}
"""Advantage over the weakest kind in classification, retrieval and generative tasks."""


def plausible_suites(kind: str, level: float, tasks: Mapping[str, Sequence[str]]) -> dict[str, dict[str, TaskResult]]:
    """All suites of one model; ``level``, from 0 to 1, is its quality."""
    gains = dict(zip(("classification", "retrieval", "generative"), _ADVANTAGE[kind], strict=True))
    metrics = {"classification": "accuracy", "retrieval": "ndcg_at_10", "generative": "acc"}
    suites = {
        suite: {
            task: result(answers(0.45 + 0.3 * level + gains[suite] + 0.02 * index), metrics[suite])
            for index, task in enumerate(names)
        }
        for suite, names in tasks.items()
    }
    neutral = 0.1 + 0.2 * level
    male = 0.55 * (1 - neutral)
    suites["bias"] = {
        "winogender": bias(male, 1 - neutral - male, 0.3 + 0.15 * level, answers(0.3 + 0.15 * level, 120))
    }
    suites["intrinsic"] = intrinsic(1.6 - 0.4 * level + 0.3 * kind.startswith("d"), 2.2 - 0.5 * level)
    return suites
