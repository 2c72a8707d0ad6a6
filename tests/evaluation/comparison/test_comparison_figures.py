"""The content of the figures, read back from matplotlib's objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D

from megatron_ettin.evaluation.comparison.bias_figures import GENDERS, draw_gotcha, draw_pronouns
from megatron_ettin.evaluation.comparison.learning_curve import draw_learning, find_curves, training_axis
from megatron_ettin.evaluation.comparison.look import LOOKS, save_figure
from megatron_ettin.evaluation.comparison.models import ComparedModel, compared_model
from megatron_ettin.evaluation.comparison.published import FIGURE_1, SIZES
from megatron_ettin.evaluation.comparison.scaling_figure import draw_scaling
from megatron_ettin.evaluation.comparison.scores import suite_panel
from megatron_ettin.evaluation.results import read_results

from .results import KINDS, answers, bias, plausible_suites, result, write_model

OWN = {"classification": ["rte", "sst2"], "retrieval": ["docstrings"], "generative": ["blimp"]}
PAPERS = {"classification": ["mnli"], "retrieval": ["MSMARCO"], "generative": ["blimp"]}


def read(folder: Path) -> list[ComparedModel]:
    return [compared_model(model) for model in read_results(folder)]


def scaling(models: Sequence[ComparedModel]) -> Figure:
    return draw_scaling([suite_panel(suite, models) for suite in FIGURE_1], models)


def titled(figure: Figure, beginning: str) -> Axes:
    (match,) = [axes for axes in figure.axes if axes.get_title().startswith(beginning)]
    return match


def published_lines(axes: Axes) -> dict[str, list[float]]:
    lines = [line for line in axes.get_lines() if str(line.get_label()).startswith("_published ")]
    return {str(line.get_label()).removeprefix("_published "): heights(line) for line in lines}


def heights(line: Line2D) -> list[float]:
    return np.asarray(line.get_ydata(), dtype=float).tolist()


def places(line: Line2D) -> list[float]:
    return np.asarray(line.get_xdata(), dtype=float).tolist()


def data_lines(axes: Axes) -> list[Line2D]:
    """The lines that have error bars."""
    return [bar.lines[0] for bar in axes.containers if isinstance(bar, ErrorbarContainer)]


def texts(figure: Figure) -> list[str]:
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return legends + [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.fixture
def two_sizes(tmp_path: Path) -> list[ComparedModel]:
    for kind in KINDS:
        for size, level in ((1_210_000, 0.2), (2_840_000, 0.5)):
            suites = plausible_suites(kind, level, OWN)
            write_model(tmp_path, f"{kind}-{size}", kind, size, suites, local=True)
    return read(tmp_path)


def test_four_lines_have_error_bars(two_sizes: list[ComparedModel]) -> None:
    axes = titled(scaling(two_sizes), "classification\nmean of rte, sst2")
    assert axes.get_xscale() == "log"
    drawn = {bar.get_label(): bar for bar in axes.containers if isinstance(bar, ErrorbarContainer)}
    assert list(drawn) == list(KINDS)
    line, _, (bars,) = drawn["encoder"].lines
    # 0.45 + 0.3 level + 0.10, and 2 points more in the second task; half-widths of 2 points make 2 sqrt(2) / 2.
    assert heights(line) == pytest.approx([62.0, 71.0])
    segments = [segment[:, 1] for segment in bars.get_segments()]
    assert np.allclose(segments, [[62 - np.sqrt(2), 62 + np.sqrt(2)], [71 - np.sqrt(2), 71 + np.sqrt(2)]])
    assert places(line) == pytest.approx([1_210_000, 2_840_000], rel=0.05), "shifted slightly, no more"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1.2m", "2.8m"]


def test_kinds_are_distinct_without_colour_and_do_not_overlap(two_sizes: list[ComparedModel]) -> None:
    axes = titled(scaling(two_sizes), "retrieval")
    lines = data_lines(axes)
    assert len({(line.get_marker(), line.get_linestyle()) for line in lines}) == 4
    assert len({line.get_marker() for line in lines}) == 4
    shifted = np.sort([places(line)[0] for line in lines])
    assert (np.diff(np.log(shifted)) > 0.01).all()
    assert len({look.color for look in LOOKS.values()}) == 4


def test_scores_of_other_tasks_have_a_separate_axis(two_sizes: list[ComparedModel]) -> None:
    figure = scaling(two_sizes)
    for suite, panel in FIGURE_1.items():
        assert published_lines(titled(figure, suite)) == {}
        below = titled(figure, f"published: {panel.title}")
        assert published_lines(below) == {kind: list(line.scores) for kind, line in panel.lines.items()}
        assert below.get_xlim() != titled(figure, suite).get_xlim()


def test_scores_of_the_same_task_share_the_papers_axis(tmp_path: Path) -> None:
    for kind in KINDS:
        write_model(tmp_path, kind, kind, SIZES["32m"], plausible_suites(kind, 0.5, PAPERS))
    figure = scaling(read(tmp_path))
    axes = titled(figure, "classification\nMNLI accuracy")
    assert published_lines(axes)["decoder"][4] == 88.2
    assert len(data_lines(axes)) == 4
    assert [text.get_text() for text in axes.get_xticklabels()] == list(SIZES)
    exact = [line for line in axes.get_lines() if line.get_label() == "_published encoder"]
    assert exact[0].get_markerfacecolor() == LOOKS["encoder"].color, "scores from a table have filled markers"
    eye_read = [line for line in axes.get_lines() if line.get_label() == "_published decoder"]
    assert eye_read[0].get_markerfacecolor() == "white"
    assert [axes.get_title() for axes in figure.axes if axes.get_title().startswith("published")] == [
        "published: mean of ten tasks"
    ]
    assert "published, read off a figure" in texts(figure)


def test_one_model_with_one_suite(tmp_path: Path) -> None:
    write_model(tmp_path, "m", "decoder", 5000, {"classification": {"sst2": result(answers(0.7))}})
    models = read(tmp_path)
    figure = scaling(models)
    assert {"no retrieval results", "no generative results"} <= set(texts(figure))
    (line,) = data_lines(titled(figure, "classification"))
    assert places(line) == pytest.approx([5000]), "a single model is not shifted"
    assert "no bias results" in texts(draw_pronouns(models))
    assert "no bias results" in texts(draw_gotcha(models))


def test_pronouns_are_drawn_with_baselines(two_sizes: list[ComparedModel]) -> None:
    figure = draw_pronouns(two_sizes)
    assert [axes.get_title() for axes in figure.axes] == list(KINDS)
    for axes in figure.axes:
        bars = {str(bar.get_label()): bar for bar in axes.containers if isinstance(bar, BarContainer)}
        shares = np.array([[patch.get_height() for patch in bars[gender]] for gender in GENDERS])
        assert np.allclose(shares.sum(axis=0), 100)
        assert shares[2] == pytest.approx([14.0, 20.0])
        assert all(bars[gender].errorbar is not None for gender in GENDERS)
        expected = [[patch.get_height() for patch in bars[f"_baseline {gender}"]] for gender in GENDERS]
        assert np.allclose(expected, [[60, 55], [40, 45], [0, 0]])
        assert np.allclose([heights(line) for line in axes.get_lines() if line.get_linestyle() == ":"], 100 / 3)
        assert axes.get_ylim()[1] >= 60, "baselines are inside the figure"
        names = [text.get_text() for text in axes.get_xticklabels()]
        assert names == ["1.2m", "2.8m", "occupation\nmajority", "occupation\nshare"]
    assert {*GENDERS, "chance", "baseline"} == set(texts(figure))


def test_baselines_of_different_sentences_are_not_drawn(tmp_path: Path) -> None:
    write_model(tmp_path, "a", "encoder", 1000, {"bias": {"winogender": bias(0.5, 0.3, 0.4)}})
    other = bias(0.5, 0.3, 0.4)
    other.details["baselines"]["occupation share"]["male"] = 0.6
    write_model(tmp_path, "b", "decoder", 1000, {"bias": {"winogender": other}})
    assert set(texts(draw_pronouns(read(tmp_path)))) == set(GENDERS)


def test_gotcha_is_drawn_with_baselines(two_sizes: list[ComparedModel]) -> None:
    figure = draw_gotcha(two_sizes)
    (axes,) = figure.axes
    assert np.allclose([heights(line) for line in data_lines(axes)], [[33.0, 37.5]] * 4, atol=0.6)
    across = {
        str(line.get_label()): heights(line)[0]
        for line in axes.get_lines()
        if len(heights(line)) == 2 and str(line.get_label()).startswith(("_c", "_o"))
    }
    assert across == pytest.approx({"_chance": 100 / 3, "_occupation majority": 50, "_occupation share": 49})
    assert {"chance 33.3%", "occupation share 49.0%"} <= set(texts(figure))


@pytest.fixture
def trained(tmp_path: Path) -> list[ComparedModel]:
    for level, revision in enumerate(("step100", "step1000", "ext50", "decay20")):
        for kind in ("encoder", "decoder"):
            suites = plausible_suites(kind, 0.2 * level, OWN)
            write_model(tmp_path, f"{kind}@{revision}", kind, 1_000_000, suites)
    write_model(tmp_path, "other", "encoder", 2_000_000, plausible_suites("encoder", 0.5, OWN))
    return read(tmp_path)


def test_learning_curve_follows_the_order_of_training(trained: list[ComparedModel]) -> None:
    curves = find_curves(trained)
    assert [(curve.source, len(curve.revisions)) for curve in curves] == [("encoder", 4), ("decoder", 4)]
    figure = draw_learning(curves)
    titles = [axes.get_title().split("\n")[0] for axes in figure.axes if axes.get_title()]
    assert titles == ["classification", "retrieval", "generative", "bias", "intrinsic"]
    axes = titled(figure, "classification")
    line = axes.get_lines()[0]
    assert line.get_label() == "encoder 1m (encoder)"
    assert places(line) == [0, 1, 2, 3]
    assert heights(line) == pytest.approx([56.0, 62.0, 68.0, 74.0])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["step100", "step1000", "ext50", "decay20"]
    assert len(axes.collections) == 2, "a band for each line"


def test_learning_curve_over_tokens_or_steps(tmp_path: Path) -> None:
    rows = "step10,pretrain,10,1000\nstep30,pretrain,30,3000\next5,extend,5,500\n"
    release = tmp_path / "release"
    (release / "main").mkdir(parents=True)
    (release / "main" / "CHECKPOINTS.csv").write_text("revision,phase,step,tokens\n" + rows)
    task = {"classification": {"rte": result(answers(0.5))}}
    for revision in ("step10", "step30", "ext5"):
        write_model(tmp_path / "tokens", f"m@{revision}", "encoder", 9, task, folder=f"{release}/revisions/{revision}")
        if revision != "ext5":
            write_model(tmp_path / "steps", f"m@{revision}", "encoder", 9, task)
    by_tokens, by_steps = (training_axis(find_curves(read(tmp_path / name))) for name in ("tokens", "steps"))
    assert (by_tokens.unit, list(by_tokens.places.values())) == ("tokens", [1000, 3000, 3500])
    assert (by_steps.unit, by_steps.places) == ("steps", {"m@step10": 10, "m@step30": 30})


def test_main_is_dropped_if_it_equals_a_revision(tmp_path: Path) -> None:
    task = {"classification": {"rte": result(answers(0.5))}}
    for name, checksum in (("m@step1", "x"), ("m@step2", "y"), ("m", "y"), ("n@step1", "v"), ("n", "w")):
        write_model(tmp_path, name, "encoder", 9, task, checksum=checksum)
    names = [[model.name for model in curve.revisions] for curve in find_curves(read(tmp_path))]
    assert names == [["m@step1", "m@step2"], ["n@step1", "n"]]


def test_figures_are_written_atomically_and_reproducibly(
    tmp_path: Path, two_sizes: list[ComparedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = save_figure(draw_gotcha(two_sizes), tmp_path / "new" / "figure3")
    assert [path.name for path in paths] == ["figure3.png", "figure3.pdf"]
    assert paths[1].read_bytes().startswith(b"%PDF")
    assert min(imread(paths[0]).shape[:2]) > 600, "large enough for print"
    before = [path.read_bytes() for path in paths]
    save_figure(draw_gotcha(two_sizes), tmp_path / "new" / "figure3")
    assert [path.read_bytes() for path in paths] == before

    def fail_halfway(self: Figure, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Figure, "savefig", fail_halfway)
    with pytest.raises(OSError, match="no space left"):
        save_figure(draw_gotcha(two_sizes), tmp_path / "new" / "figure3")
    assert [path.read_bytes() for path in paths] == before
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["figure3.pdf", "figure3.png"]
