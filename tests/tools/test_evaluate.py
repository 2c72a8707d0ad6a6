"""The command line of tools/evaluate.py: exit codes, output, and the imports of --help."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.suite import SuiteOptions
from megatron_ettin.evaluation.suites.all_suites import ALL_SUITES
from tests.evaluation.saved import edit_config, save_model
from tests.evaluation.suites.bias.test_winogender import write_files
from tests.evaluation.suites.classification.tiny import rows
from tests.evaluation.suites.classification.tiny import write_task as write_labelled
from tests.evaluation.suites.retrieval.tiny import write_task as write_pairs

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str]) -> int:
    """Run the tool in this process."""
    code: int = import_module("tools.evaluate").main(arguments)
    return code


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_failures_are_listed_below_the_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = save_model("decoder", tmp_path / "good")
    headless = edit_config(save_model("encoder", tmp_path / "headless"), architectures=["ModernBertModel"])
    write_files(tmp_path / "data" / "bias")
    places = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    capsys.readouterr()
    assert main(["--model", str(good), str(headless), "no/such", "--suite", "all", *places]) == 2
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].split() == ["task", "metric", "good", "headless"]
    assert lines[1].startswith("bias/winogender  gotcha  0.")
    assert lines[1].endswith("failed")
    failed = [line for line in lines if line.startswith("failed: ")]
    assert failed == [line.replace("error: ", "failed: ") for line in captured.err.splitlines() if "error: " in line]
    assert len(failed) == 2
    assert "--model no/such: there is no such folder, and the Hub cannot be reached" in failed[0]
    assert "headless, bias/winogender: --model" in failed[1]
    assert "has no prediction head" in failed[1]
    assert main(["--model", str(good), "--suite", "bias", *places]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == lines[1].split()[:3]


def test_suite_flags_start_with_the_name_of_the_suite() -> None:
    for suite in ALL_SUITES:
        flags: list[str] = []
        suite.add_flags(lambda flag, flags=flags, **_: flags.append(flag))
        assert all(flag.startswith(f"--{suite.name}-") for flag in flags)


def test_repeated_flags_extend_models_suites_and_tasks() -> None:
    line = "--model a --model b c --suite bias --suite intrinsic --tasks bias/x --tasks intrinsic/y --output o"
    given = import_module("tools.evaluate").build_parser().parse(line.split())
    assert (given.model, given.suite) == (["a", "b", "c"], ["bias", "intrinsic"])
    assert given.tasks == ["bias/x", "intrinsic/y"]
    again = import_module("tools.evaluate").build_parser().parse(["--model", "a", "--suite", "bias", "--output", "o"])
    assert again.tasks == []


def test_local_tasks_are_marked_as_local(tmp_path: Path) -> None:
    """Even with the names of published tasks: the comparison must not confuse the two."""
    write_files(tmp_path / "bias")
    (tmp_path / "intrinsic" / "m").mkdir(parents=True)
    (tmp_path / "intrinsic" / "m" / "mlm.json").write_text("{}")
    write_labelled(tmp_path / "classification" / "mnli", train=rows(20, 1), test=rows(4, 2))
    pairs = [(f"query {n}", f"answer {n}") for n in range(40)]
    write_pairs(tmp_path / "retrieval" / "MSMARCO", train=pairs, test=pairs[:4])
    options = SuiteOptions(tmp_path, extra={"retrieval_batch_pairs": 8})
    for suite in ALL_SUITES:
        if suite.name != "generative":  # needs the extra [eval]: tests/evaluation/suites/generative
            assert [task.is_local for task in suite.build_tasks(options)] == [True]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--suite", "bais"], "--suite: invalid choice: 'bais'"),
        (["--suite", "bias", "--otput", "x"], r"--otput: unknown flag; did you mean --output\?"),
        (["--suite", "all", "--data", "/no/such"], "--data /no/such: there is no such folder"),
        (["--suite", "bias", "--train-items", "9"], r"--train-items: .* mean --classification-train-items\?"),
        (["--suite", "bias", "--seeds", "x"], "--seeds: x is not a non-negative integer"),
        (["--suite", "bias", "intrinsic", "--tasks", "mlm"], "with several suites, name the suite too, as in bias/mlm"),
    ],
)
def test_invalid_command_lines_are_rejected(arguments: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        main(["--model", "m", "--output", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


def test_invalid_flag_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    flags = ["--model", "m", "--suite", "all", "--data", str(tmp_path / "none"), "--output", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "tools/evaluate.py", *flags], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: --data {tmp_path}/none: there is no such folder\n"


@pytest.mark.slow  # needs the extra [eval]
def test_hub_data_without_network_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    good = save_model("decoder", tmp_path / "good")
    capsys.readouterr()
    assert main(["--model", str(good), "--suite", "bias", "--output", str(tmp_path / "out"), "--device", "cpu"]) == 2
    captured = capsys.readouterr()
    [failed] = captured.out.splitlines()
    assert failed.startswith(
        "failed: good, bias: --suite bias: oskarvanderwal/winogender cannot be loaded from the Hub"
    )
    assert captured.err == failed.replace("failed: ", "error: ") + "\n"


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys; import tools.evaluate; tools.evaluate.build_parser().format_help(); "
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    heavy = {"torch", "transformers", "datasets", "lm_eval", "sentence_transformers", "mteb", "sklearn", "scipy"}
    assert not heavy & set(loaded.split())


@pytest.mark.slow  # needs the extra [eval]
def test_tool_does_not_shadow_the_library_evaluate() -> None:
    """Python puts the folder of a script on its path, and lm-eval imports the library ``evaluate``."""
    code = (
        "import runpy, sys; sys.argv = ['tools/evaluate.py', '--help']; sys.path[0] = 'tools'\n"
        "try: runpy.run_path('tools/evaluate.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "from importlib.util import find_spec; print(find_spec('evaluate').origin)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "site-packages" in done.stdout.splitlines()[-1]
