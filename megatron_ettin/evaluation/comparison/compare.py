"""Read a folder of results, and write the comparison's figures and report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_ettin.cli import suggestion
from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.comparison.bias_figures import draw_gotcha, draw_pronouns
from megatron_ettin.evaluation.comparison.differences import find_differences
from megatron_ettin.evaluation.comparison.learning_curve import draw_learning, find_curves
from megatron_ettin.evaluation.comparison.look import FIGURE_SUFFIXES, save_figure
from megatron_ettin.evaluation.comparison.models import ComparedModel, compared_model, final_models
from megatron_ettin.evaluation.comparison.published import FIGURE_1
from megatron_ettin.evaluation.comparison.report import LEARNING_CURVE, Comparison, report_text
from megatron_ettin.evaluation.comparison.scaling_figure import draw_scaling
from megatron_ettin.evaluation.comparison.scores import suite_panel
from megatron_ettin.evaluation.results import read_results
from megatron_ettin.files import atomic_file

REPORT_FILE = "report.md"


@dataclass(frozen=True)
class Written:
    """The report and the files of a comparison."""

    report: str
    """The text of report.md."""
    files: Sequence[Path]


def read_comparison(results: Path, names: Sequence[str] = ()) -> Comparison:
    """Compare the models in a folder.

    Args:
        results: the folder that ``tools/evaluate.py`` wrote.
        names: the models to compare, by folder; a name without revision includes all its revisions. By default all.

    Raises:
        ConfigError: the folder has no results, a file in it is damaged, a name is unknown, or two models are of one
            kind and size.
    """
    evaluated = _read(results, names)
    models = final_models(evaluated)
    panels = [suite_panel(suite, models) for suite in FIGURE_1]
    return Comparison(models, panels, *find_differences(models), find_curves(evaluated))


def write_comparison(comparison: Comparison, output: Path) -> Written:
    """Draw the figures and write report.md next to them, each file atomically."""
    models = comparison.models
    figures = {"figure1": draw_scaling(comparison.panels, models)}
    figures |= {"figure2": draw_pronouns(models), "figure3": draw_gotcha(models)}
    if comparison.curves:
        figures[LEARNING_CURVE] = draw_learning(comparison.curves)
    else:
        for suffix in FIGURE_SUFFIXES:  # one of an earlier comparison would not match this report
            (output / f"{LEARNING_CURVE}{suffix}").unlink(missing_ok=True)
    files = [path for stem, figure in figures.items() for path in save_figure(figure, output / stem)]
    text = report_text(comparison)
    with atomic_file(output / REPORT_FILE) as partial:
        partial.write_text(text, encoding="utf-8")
    return Written(text, [output / REPORT_FILE, *files])


def _read(results: Path, names: Sequence[str]) -> list[ComparedModel]:
    if not results.is_dir():
        raise ConfigError(f"{results}: there is no such folder")
    # A model whose every task failed has a folder too.
    models = [compared_model(model) for model in read_results(results) if any(model.suites.values())]
    if not models:
        raise ConfigError(f"{results} contains no results: no task was finished there")
    known = {model.name for model in models} | {model.source for model in models}
    for name in names:
        if name not in known:
            raise ConfigError(f"--model {name}: {results} contains no results of it{suggestion(name, sorted(known))}")
    return [model for model in models if not names or model.name in names or model.source in names]
