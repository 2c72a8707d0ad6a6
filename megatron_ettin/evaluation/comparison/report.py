"""The report of a comparison: tables in the paper's form, and the differences that exceed noise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from megatron_ettin.evaluation.comparison.differences import LEVEL, Difference, Untested, unlike_settings
from megatron_ettin.evaluation.comparison.learning_curve import LearningCurve, curve_panels, training_axis
from megatron_ettin.evaluation.comparison.models import ComparedModel, size_groups
from megatron_ettin.evaluation.comparison.published import size_name
from megatron_ettin.evaluation.comparison.scores import Panel, metric_title
from megatron_ettin.evaluation.comparison.tables import (
    NOTHING,
    bias_table,
    intrinsic_table,
    markdown_table,
    measure_text,
    score_table,
)

LEARNING_CURVE = "learning_curve"
"""The name of the figure that is drawn only if revisions were evaluated."""


@dataclass(frozen=True)
class Comparison:
    """The content of the report."""

    models: Sequence[ComparedModel]
    """One for each kind and size."""
    panels: Sequence[Panel]
    """The panels of Figure 1."""
    differences: Sequence[Difference] = ()
    untested: Sequence[Untested] = ()
    curves: Sequence[LearningCurve] = field(default=())


def report_text(comparison: Comparison) -> str:
    """Return the report as Markdown; it links to the figures in the same folder."""
    models = comparison.models
    lines = ["# Encoders and decoders compared", "", *_summary_lines(comparison), ""]
    lines += _figure_lines("figure1", "scores over model size")
    lines += ["Error bars are 95% intervals.", ""]
    lines += [*(line for panel in comparison.panels for line in _panel_lines(panel)), ""]
    lines += ["## Which differences exceed noise", "", *_difference_lines(comparison), ""]
    lines += ["## Scores", "", *_SCORES_NOTE, ""]
    for title, suites in (
        ("Classification and retrieval", ("classification", "retrieval")),
        ("Generative", ("generative",)),
    ):
        table = score_table(suites, models)
        lines += [f"### {title}", "", *(table or [f"No results of {' or '.join(suites)}."]), ""]
    lines += _unlike_lines(models)
    lines += ["## Bias", "", *_bias_lines(models), ""]
    lines += ["## Intrinsic", "", *(intrinsic_table(models) or ["No results of intrinsic."]), ""]
    if comparison.curves:
        lines += ["## Learning curves", "", *_figure_lines(LEARNING_CURVE, "scores over training")]
        lines += _curve_lines(comparison.curves)
    return "\n".join(lines).rstrip() + "\n"


_SCORES_NOTE = [
    "In percent, with 95% intervals. Rows in italics are the paper's, where it has the same task; `~` marks scores",
    "that were read off a figure, to about half a point. The paper's protocol may differ.",
]
_NOISE_NOTE = [
    "Brackets contain the 95% interval of a difference alone: paired bootstrap over items, widened by the spread over",
    "seeds where a model was fine-tuned with several. A difference exceeds noise when this interval excludes 0 and a",
    f"sign-flip test of the paired items has a p-value below {LEVEL:g} after Holm's adjustment for all comparisons, so",
    f"that the probability of even one false claim among them is below {LEVEL:.0%}. Noise is the choice of items and,",
    "where several seeds were run, of the fine-tuning seed. Each model was pretrained once: the effect of another",
    "pretraining seed is not included.",
]


def _summary_lines(comparison: Comparison) -> list[str]:
    groups = [
        f"{size_name(group[0].parameters)} ({', '.join(model.kind for model in group)})"
        for group in size_groups(comparison.models)
    ]
    return [f"{_count(len(comparison.models), 'model')} in {_count(len(groups), 'size')}: {'; '.join(groups)}."]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _figure_lines(stem: str, alternative: str) -> list[str]:
    return [f"![{alternative}]({stem}.png)", ""]


def _bias_lines(models: Sequence[ComparedModel]) -> list[str]:
    table = bias_table(models)
    if not table:
        return ["No results of bias."]
    lines = _figure_lines("figure2", "pronouns preferred")
    return [*lines, *_figure_lines("figure3", "misleading pronouns preferred"), *table]


def _panel_lines(panel: Panel) -> list[str]:
    if not panel.scores:
        return [f"- {panel.suite}: {' '.join(panel.missing.split())}"]
    line = f"- {panel.suite}: {panel.title}"
    if len(panel.tasks) > 3 and not panel.same_tasks:
        line += f" ({', '.join(panel.tasks)})"
    if panel.published and not panel.same_tasks:
        line += f"; the published scores are of another task ({panel.published.title}) and do not compare with these"
    return [line]


def _difference_lines(comparison: Comparison) -> list[str]:
    differences = comparison.differences
    if not differences:
        return [
            "Nothing to test: no two kinds of one size have scores of the same items.",
            *_untested_lines(comparison),
        ]
    beyond = sum(difference.exceeds_noise for difference in differences)
    lines = [
        f"{_count(len(differences), 'comparison')}: all pairs of kinds of one size in every common task, on the same "
        f"items. {beyond} exceed{'s' * (beyond == 1)} noise.",
        "",
        *_NOISE_NOTE,
        "",
    ]
    beyond_rows = [[*_where(one), one.in_words(), _p_text(one.adjusted)] for one in differences if one.exceeds_noise]
    other_rows = [
        [*_where(one), f"{one.first.kind} minus {one.second.kind}", one.points_text(), _p_text(one.adjusted)]
        for one in differences
        if not one.exceeds_noise
    ]
    lines += [*_tally_lines(differences), ""]
    if beyond_rows:
        lines += ["### Exceeding noise", "", *markdown_table([*_WHERE, "finding", "adjusted p"], beyond_rows)]
    if other_rows:
        note = "An interval here that excludes 0 would count if it were the only comparison made."
        table = markdown_table([*_WHERE, "pair", "points", "adjusted p"], other_rows)
        lines += [*([""] if beyond_rows else []), "### No difference that exceeds noise", "", note, "", *table]
    return [*lines, *_untested_lines(comparison)]


_WHERE = ("size", "suite", "task")


def _where(one: Difference) -> list[str]:
    task = one.task if one.metric == one.task else f"{one.task} ({metric_title(one.metric)})"
    return [size_name(one.first.parameters), one.suite, task]


def _tally_lines(differences: Sequence[Difference]) -> list[str]:
    """Return for each pair of kinds and suite how many differences exceed noise in either direction, over all sizes."""
    suites = list(dict.fromkeys(one.suite for one in differences))
    pairs = list(dict.fromkeys((one.first.kind, one.second.kind) for one in differences))
    rows = []
    for first, second in pairs:
        cells = []
        for suite in suites:
            pair = [
                one for one in differences if (one.suite, one.first.kind, one.second.kind) == (suite, first, second)
            ]
            above = sum(one.exceeds_noise and one.points.value > 0 for one in pair)
            below = sum(one.exceeds_noise and one.points.value < 0 for one in pair)
            cells.append(f"{above} above, {below} below, {len(pair) - above - below} neither" if pair else NOTHING)
        rows.append([f"{first} against {second}", *cells])
    return markdown_table(["over all sizes and tasks", *suites], rows)


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _untested_lines(comparison: Comparison) -> list[str]:
    if not comparison.untested:
        return []
    reasons = Counter((one.suite, one.task, one.reason) for one in comparison.untested)
    lines = [f"- {suite} {task}, {_count(count, 'pair')}: {reason}" for (suite, task, reason), count in reasons.items()]
    return ["", "Not tested:", "", *lines]


def _unlike_lines(models: Sequence[ComparedModel]) -> list[str]:
    """Return the tasks that were measured with unlike settings, whose rows do not compare."""
    tasks = sorted({(suite, task) for model in models for suite, of in model.suites.items() for task in of})
    tasks = [(suite, task) for suite, task in tasks if suite != "intrinsic"]  # its settings name each model's files
    lines = []
    for suite, task in tasks:
        evaluated = [model for model in models if task in model.suites.get(suite, {})]
        if unlike := unlike_settings(suite, task, evaluated):
            lines.append(f"- {suite} {task}: models were measured with unlike settings ({', '.join(unlike)})")
    return ["Not to be compared across rows:", "", *lines, ""] if lines else []


def _curve_lines(curves: Sequence[LearningCurve]) -> list[str]:
    panels, axis = curve_panels(curves), training_axis(curves)
    header = ["model", "revision", *([axis.unit] if axis.unit != "revisions" else [])]
    header += [f"{panel.suite}: {panel.title}" for panel in panels]
    rows = []
    for curve in curves:
        for model in curve.revisions:
            place = [f"{axis.places[model.name]:,.0f}"] if axis.unit != "revisions" else []
            scores = [_curve_score(panel, model) for panel in panels]
            rows.append([curve.source, model.revision or "main", *place, *scores])
    return markdown_table(header, rows)


def _curve_score(panel: Panel, model: ComparedModel) -> str:
    score = panel.scores.get(model.name)
    return measure_text(score, 3 if panel.suite == "intrinsic" else 1) if score else NOTHING
