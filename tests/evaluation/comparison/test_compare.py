"""tools/compare.py: from a folder of results to the report, and refused input."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_ettin.evaluation.comparison.compare import read_comparison, write_comparison
from megatron_ettin.evaluation.comparison.report import report_text

from .results import KINDS, answers, plausible_suites, result, write_model

TOOL = Path(__file__).resolve().parents[3] / "tools" / "compare.py"
OWN = {"classification": ["rte"], "retrieval": ["docstrings"], "generative": ["blimp"]}

Compare = Callable[..., tuple[int, str, str]]


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Compare:
    """A function that runs the tool and returns its exit code, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
        monkeypatch.setattr("signal.signal", lambda *_: None)
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(TOOL), run_name="__main__")
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return run


def table_rows(report: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, header first."""
    lines = report.split(f"{heading}\n", 1)[1].split("\n#", 1)[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in rows if not set("".join(row)) <= set("-")]


def test_four_kinds(tmp_path: Path, compare: Compare) -> None:
    for kind in KINDS:
        write_model(tmp_path, kind, kind, 1_000_000, plausible_suites(kind, 0.5, OWN), local=True)
    code, output, _ = compare(tmp_path, "--output", tmp_path / "out")
    assert code == 0
    names = {f"figure{number}.{form}" for number in (1, 2, 3) for form in ("png", "pdf")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, "report.md"}
    report = (tmp_path / "out" / "report.md").read_text()
    assert report in output
    for line in ("4 models in 1 size: 1m", "24 comparisons:", "![scores over model size](figure1.png)"):
        assert line in report
    head, *rows = table_rows(report, "### Classification and retrieval")
    assert head == ["model", "kind", "size", "rte (accuracy)", "docstrings (nDCG@10)"]
    assert rows[0] == ["encoder", "encoder", "1m", "70.0 [68.0, 72.0]", "66.0 [64.0, 68.0]"]
    assert len(rows) == 4, "the paper has none of these tasks"
    findings = {(row[2], row[3]) for row in table_rows(report, "### Exceeding noise")[1:]}
    assert any(text.startswith("encoder above decoder by 10.0 points [7") for task, text in findings if "rte" in task)
    assert any(text.startswith("decoder above encoder by 8.0 points [5") for task, text in findings if "blimp" in task)
    head, *rows = table_rows(report, "## Bias")
    assert rows[0][3:6] == ["44.0 [39.0, 49.0]", "36.0 [31.0, 41.0]", "20.0 [15.0, 25.0]"]
    assert rows[-1] == ["*baseline: occupation share*", "", "", "55.0", "45.0", "0.0", "49.0"]
    head, *rows = table_rows(report, "## Intrinsic")
    assert head[3:] == ["clm: bits per byte", "clm: validation loss", "mlm: bits per byte", "mlm: validation loss"]
    assert rows[0][5] == "1.400"


def test_published_rows_follow_the_models(tmp_path: Path) -> None:
    suites = plausible_suites("encoder", 0.5, {"classification": ["mnli", "sst2"], "generative": ["piqa"]})
    write_model(tmp_path, "mine", "encoder", 17_000_000, suites)
    report = report_text(read_comparison(tmp_path))
    rows = table_rows(report, "### Classification and retrieval")
    assert ["*published*", "*encoder*", "*17m*", "*79.5*", "*91.2*", "-"] in rows
    assert ["*published*", "*decoder*", "*400m*", "*~88.2*", "-", "-"] in rows
    assert ["*published*", "*decoder*", "*150m*", "*66.6*"] in table_rows(report, "### Generative")
    assert "Nothing to test" in report


def test_local_files_named_like_the_papers_tasks_have_no_published_rows(tmp_path: Path) -> None:
    names = {"classification": ["mnli", "sst2"], "retrieval": ["MSMARCO"], "generative": ["piqa"]}
    write_model(tmp_path, "mine", "encoder", 17_000_000, plausible_suites("encoder", 0.5, names), local=True)
    report = report_text(read_comparison(tmp_path))
    assert "*published*" not in report
    assert report.count("do not compare with these") == 3


def test_revisions_give_a_learning_curve_and_the_last_one_is_compared(tmp_path: Path, compare: Compare) -> None:
    for share, revision in ((0.5, "step10"), (0.6, "step200"), (0.7, "ext5")):
        task = {"classification": {"rte": result(answers(share))}}
        write_model(tmp_path, f"m@{revision}", "encoder", 1000, task)
    _, report, _ = compare(tmp_path)
    rows = table_rows(report, "## Learning curves")
    assert [row[:3] for row in rows[1:]] == [
        ["m", "step10", "50.0 [48.0, 52.0]"],
        ["m", "step200", "60.0 [58.0, 62.0]"],
        ["m", "ext5", "70.0 [68.0, 72.0]"],
    ]
    assert [row[0] for row in table_rows(report, "### Classification and retrieval")[1:]] == ["m@ext5"]
    curve = tmp_path / "comparison" / "learning_curve.png"
    assert curve.is_file()
    one = read_comparison(tmp_path, ["m@step200"])
    assert "Learning curves" not in write_comparison(one, tmp_path / "comparison").report
    assert not curve.exists(), "the figure of an earlier comparison is removed"


def test_unlike_settings_are_listed(tmp_path: Path) -> None:
    task = {"classification": {"rte": result(answers(0.5))}}
    write_model(tmp_path, "a", "encoder", 1000, task, settings={"seeds": [1], "items": 400})
    write_model(tmp_path, "b", "decoder", 1000, task, settings={"seeds": [1, 2], "items": 400})
    report = report_text(read_comparison(tmp_path))
    assert "- classification rte, 1 pair: measured with unlike settings: seeds" in report
    assert "- classification rte: models were measured with unlike settings (seeds)" in report


def test_model_without_results_is_left_out(tmp_path: Path, compare: Compare) -> None:
    write_model(tmp_path, "failed", "encoder", 1000, {})
    code, _, error = compare(tmp_path)
    assert (code, error) == (2, f"error: {tmp_path} contains no results: no task was finished there\n")
    write_model(tmp_path, "good", "encoder", 1000, {"classification": {"rte": result(answers(0.5))}})
    assert [model.name for model in read_comparison(tmp_path).models] == ["good"]
    assert "--model failed: " in compare(tmp_path, "--model", "failed")[2]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.json", None, "there is no */model.json in it"),
        ("model.json", "{", "a/model.json is damaged"),
        ("model.json", '{"kind": "fish", "parameters": 1, "folder": "", "checksum": ""}', "model.json: kind 'fish'"),
        ("classification.json", "[]", "classification.json is damaged"),
        ("classification.json", '{"tasks": {"rte": {}}}', "classification.json is damaged"),
        ("classification.json", '{"tasks": [1]}', "classification.json is damaged"),
        ("items/classification/rte.json", "x", "rte.json is damaged"),
    ],
)
def test_damaged_results_are_one_line(
    tmp_path: Path, compare: Compare, file: str, content: str | None, message: str
) -> None:
    path = write_model(tmp_path, "a", "encoder", 1000, {"classification": {"rte": result(answers(0.5))}}) / file
    path.unlink() if content is None else path.write_text(content)
    code, _, error = compare(tmp_path, "--output", tmp_path / "out")
    assert (code, error.count("\n")) == (2, 1)
    assert message in error
    assert not (tmp_path / "out").exists(), "no partial report is left"


def test_unknown_names_and_folders_are_one_line(tmp_path: Path, compare: Compare) -> None:
    task = {"classification": {"rte": result(answers(0.5))}}
    write_model(tmp_path, "first", "encoder", 1000, task)
    write_model(tmp_path, "second", "encoder", 1010, task)
    for arguments, message in (
        ((tmp_path,), "first and second are two encoders of one size: name the models to compare with --model"),
        ((tmp_path, "--model", "frist"), "--model frist: "),
        ((tmp_path / "none",), "there is no such folder"),
        ((tmp_path / "first",), "has no results"),
        ((), "DIR"),
    ):
        code, _, error = compare(*arguments)
        assert (code, error.count("\n")) == (2, 1), error
        assert message in error
    assert "did you mean first?" in compare(tmp_path, "--model", "frist")[2]
    assert [model.name for model in read_comparison(tmp_path, ["second"]).models] == ["second"]
