"""The paper's scores against the sums and averages that it prints."""

from __future__ import annotations

import numpy as np
import pytest

from megatron_ettin.evaluation.comparison.published import (
    DECODERS,
    ENCODERS,
    FIGURE_1,
    GENERATIVE,
    SIZES,
    published_scores,
    size_name,
)

AVERAGES = {"17m": 36.4, "32m": 38.7, "68m": 41.8, "150m": 46.2, "400m": 53.1, "1b": 59.0}
"""The last column of the paper's table of decoders."""


def test_sizes_are_the_parameter_counts_of_the_shapes() -> None:
    shapes = {
        "17m": (7, 256, 384),
        "32m": (10, 384, 576),
        "68m": (19, 512, 768),
        "150m": (22, 768, 1152),
        "400m": (28, 1024, 2624),
        "1b": (28, 1792, 3840),
    }
    for size, (layers, hidden, intermediate) in shapes.items():
        matrices = 50368 * hidden + layers * (4 * hidden**2 + 3 * hidden * intermediate) + hidden**2
        vectors = (2 * layers + 1) * hidden + hidden + 50368
        assert SIZES[size] == matrices + vectors


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (999, "1k"),
        (312_400, "312k"),
        (1_210_000, "1.2m"),
        (3_000_000, "3m"),
        (16_800_000, "17m"),
        (395_881_664, "400m"),
        (1_540_000_000, "1.5b"),
    ],
)
def test_size_names(parameters: int, name: str) -> None:
    assert size_name(parameters) == name


def test_decoder_averages_equal_the_printed_ones() -> None:
    for size, scores in DECODERS.items():
        assert len(scores) == len(GENERATIVE) == 10
        assert np.mean(scores) == pytest.approx(AVERAGES[size], abs=0.051), size


def test_figure_and_tables_agree() -> None:
    generative, mnli = FIGURE_1["generative"].lines, FIGURE_1["classification"].lines
    assert list(generative["decoder"].scores) == list(AVERAGES.values())
    assert list(mnli["encoder"].scores) == [scores[1] for scores in ENCODERS.values()]
    exact = {(suite, kind) for suite, panel in FIGURE_1.items() for kind, line in panel.lines.items() if line.exact}
    assert exact == {("classification", "encoder"), ("generative", "decoder")}
    assert all(len(line.scores) == 6 for panel in FIGURE_1.values() for line in panel.lines.values())


def test_figure_agrees_with_the_papers_conclusions() -> None:
    """Encoders lead in classification and retrieval, decoders in generation; cross-training does not catch up."""
    for suite, better, worse in (
        ("classification", "encoder", "decoder"),
        ("classification", "encoder", "encoder-from-decoder"),
        ("retrieval", "encoder", "decoder"),
        ("generative", "decoder", "encoder"),
    ):
        lines = FIGURE_1[suite].lines
        for above, below in zip(lines[better].scores, lines[worse].scores, strict=True):  # type: ignore[index]
            assert above >= below
    # A 400m encoder is above a 1b decoder in MNLI.
    assert FIGURE_1["classification"].lines["encoder"].scores[4] > FIGURE_1["classification"].lines["decoder"].scores[5]


def test_scores_by_task() -> None:
    (first, *_) = published_scores("classification", "sst2")
    assert (first.size, first.kind, first.score, first.exact) == ("17m", "encoder", 91.2, True)
    assert {(one.size, one.score) for one in published_scores("generative", "wsc273")} >= {("1b", 79.1), ("17m", 48.0)}
    mnli = published_scores("classification", "mnli")
    assert len(mnli) == 24
    assert [one.score for one in mnli if one.kind == "decoder" and one.size == "400m"] == [88.2]
    assert published_scores("classification", "rte") == []
    assert published_scores("retrieval", "sst2") == []
    assert published_scores("bias", "gotcha") == []
