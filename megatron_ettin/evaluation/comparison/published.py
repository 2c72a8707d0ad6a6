"""What the Ettin paper (Weller et al. 2025, arXiv 2507.11412) reports, in percent, for comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megatron_ettin.evaluation.models.kinds import Kind

SIZES: Mapping[str, int] = {
    "17m": 16_913_600,
    "32m": 32_081_344,
    "68m": 68_457_664,
    "150m": 149_655_232,
    "400m": 395_881_664,
    "1b": 1_031_314_112,
}
"""Parameters by the name of the size, the tied embedding counted once."""


def size_name(parameters: int) -> str:
    """Return the paper's name of a size if it is within 1% of one of its sizes, else a short count such as 1.2m."""
    for name, published in SIZES.items():
        if abs(parameters / published - 1) < 0.01:
            return name
    for unit, letter in ((1e9, "b"), (1e6, "m")):
        if parameters >= 0.9995 * unit:
            return f"{parameters / unit:.2g}{letter}" if parameters < 10 * unit else f"{parameters / unit:.0f}{letter}"
    return f"{parameters / 1e3:.0f}k"


@dataclass(frozen=True)
class PublishedTask:
    """One of the paper's tasks, and its names in the suites."""

    title: str
    """The heading of its column in the paper."""
    suite: str
    names: frozenset[str]
    """Names of the same task on the same data with the same metric, on the Hub, in lm-eval or in mteb."""


GENERATIVE: Mapping[str, PublishedTask] = {
    short: PublishedTask(title, "generative", frozenset({name}))
    for short, title, name in (
        ("ARC", "ARC", "arc_challenge"),
        ("HS", "HellaSwag", "hellaswag"),
        ("LMB", "LAMBADA", "lambada_openai"),
        ("OBQA", "OpenBookQA", "openbookqa"),
        ("PIQA", "PIQA", "piqa"),
        ("SciQ", "SciQ", "sciq"),
        ("SIQA", "Social IQa", "social_iqa"),
        ("TQA", "TriviaQA", "triviaqa"),
        ("WG", "WinoGrande", "winogrande"),
        ("WSC", "WSC", "wsc273"),
    )
}
"""The ten tasks of the generative average, in the order of :data:`DECODERS`."""

SST2 = PublishedTask("SST-2", "classification", frozenset({"sst2"}))
MNLI = PublishedTask("MNLI", "classification", frozenset({"mnli", "mnli_matched"}))
MS_MARCO = PublishedTask("MS MARCO dev", "retrieval", frozenset({"MSMARCO"}))

DECODERS: Mapping[str, Sequence[float]] = {
    "17m": (21.3, 27.1, 23.0, 27.2, 57.7, 71.1, 35.4, 2.6, 50.9, 48.0),
    "32m": (23.5, 28.5, 28.5, 28.2, 57.7, 77.5, 36.4, 3.8, 53.1, 50.2),
    "68m": (25.3, 33.4, 35.2, 29.4, 61.8, 83.2, 38.8, 5.6, 50.1, 55.3),
    "150m": (28.6, 40.3, 43.2, 29.2, 66.6, 89.6, 40.1, 11.2, 53.7, 59.0),
    "400m": (33.6, 54.3, 52.3, 34.4, 71.0, 91.8, 45.5, 18.3, 57.6, 71.8),
    "1b": (39.7, 62.9, 58.4, 41.6, 74.4, 93.8, 48.2, 29.3, 62.7, 79.1),
}
"""Decoders by size, one score for each task of :data:`GENERATIVE`."""

ENCODERS: Mapping[str, tuple[float, float]] = {
    "17m": (91.2, 79.5),
    "32m": (92.0, 83.4),
    "68m": (94.4, 87.0),
    "150m": (95.8, 89.2),
    "400m": (96.7, 91.3),
    "1b": (97.1, 91.8),
}
"""Encoders by size: SST-2, MNLI."""


@dataclass(frozen=True)
class PublishedLine:
    """One line of the paper's Figure 1."""

    scores: Sequence[float]
    """In the order of :data:`SIZES`."""
    exact: bool = False
    """Whether a table of the paper has the scores; otherwise they are read off its figure, to about half a point."""


@dataclass(frozen=True)
class PublishedPanel:
    """One panel of the paper's Figure 1."""

    title: str
    tasks: Sequence[PublishedTask]
    """The tasks that its scores are means of."""
    lines: Mapping[Kind, PublishedLine]


FIGURE_1: Mapping[str, PublishedPanel] = {
    "classification": PublishedPanel(
        "MNLI accuracy",
        [MNLI],
        {
            "encoder": PublishedLine((79.5, 83.4, 87.0, 89.2, 91.3, 91.8), exact=True),
            "decoder": PublishedLine((77.6, 80.4, 83.9, 85.6, 88.2, 89.9)),
            "encoder-from-decoder": PublishedLine((77.8, 80.9, 83.9, 85.8, 87.6, 89.0)),
            "decoder-from-encoder": PublishedLine((78.8, 82.6, 85.8, 86.8, 89.4, 90.5)),
        },
    ),
    "retrieval": PublishedPanel(
        "MS MARCO dev nDCG@10",
        [MS_MARCO],
        {
            "encoder": PublishedLine((31.0, 35.1, 38.2, 40.0, 42.2, 43.4)),
            "decoder": PublishedLine((29.1, 32.9, 36.1, 37.7, 39.9, 41.7)),
            "encoder-from-decoder": PublishedLine((31.0, 34.7, 37.9, 39.5, 41.4, 43.2)),
            "decoder-from-encoder": PublishedLine((28.6, 32.4, 36.3, 37.6, 39.7, 40.8)),
        },
    ),
    "generative": PublishedPanel(
        "mean of ten tasks",
        list(GENERATIVE.values()),
        {
            "encoder": PublishedLine((35.1, 36.6, 39.1, 42.9, 48.2, 50.7)),
            "decoder": PublishedLine((36.4, 38.7, 41.8, 46.2, 53.1, 59.0), exact=True),
            "encoder-from-decoder": PublishedLine((35.1, 36.0, 38.0, 43.6, 48.4, 52.4)),
            "decoder-from-encoder": PublishedLine((36.7, 38.1, 42.1, 43.6, 49.1, 52.2)),
        },
    ),
}
"""The panels by suite, in the paper's order."""


@dataclass(frozen=True)
class PublishedScore:
    """One score of one model of the paper."""

    size: str
    kind: Kind
    score: float
    exact: bool


def published_scores(suite: str, task: str) -> list[PublishedScore]:
    """Return the paper's scores in a task, smallest model first; [] if it has none."""
    if suite == "classification" and task in SST2.names:
        return [PublishedScore(size, "encoder", sst2, True) for size, (sst2, _) in ENCODERS.items()]
    if suite == "generative":
        columns = [index for index, known in enumerate(GENERATIVE.values()) if task in known.names]
        return [
            PublishedScore(size, "decoder", row[column], True) for size, row in DECODERS.items() for column in columns
        ]
    panel = FIGURE_1.get(suite)
    if panel is None or not any(task in known.names for known in panel.tasks):
        return []
    return [
        PublishedScore(size, kind, score, line.exact)
        for kind, line in panel.lines.items()
        for size, score in zip(SIZES, line.scores, strict=True)
    ]
