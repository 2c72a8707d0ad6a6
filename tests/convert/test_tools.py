"""The two command lines in processes: exit codes, one line per error, no partial files, no megatron-core."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.convert.samples import MODEL, misplace_rows, write_hub_folder
from tests.helpers.forked import run_script

convert_to_hf, convert_from_hf = (import_module(f"tools.{name}") for name in ("convert_to_hf", "convert_from_hf"))
ROOT = Path(__file__).resolve().parents[2]
BLOCKED = """
import runpy, sys
sys.modules["megatron"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script in which importing megatron-core fails."""


def run(*arguments: object, largest_file: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of the tools in a process in which importing megatron-core fails."""
    return run_script(
        str(arguments[0]),
        *arguments[1:],
        environment={**os.environ, "OMP_NUM_THREADS": "1"},
        blocked=["megatron"],
        max_file_bytes=largest_file,
    )


def test_import_and_export_without_megatron(tmp_path: Path) -> None:
    write_hub_folder(tmp_path / "hub", "clm")
    imported = run("tools/convert_from_hf.py", "--load", tmp_path / "hub", "--save", tmp_path / "run")
    assert (imported.returncode, imported.stderr) == (0, "")
    assert "clm model, 4 layers, width 64, vocabulary 128" in imported.stdout
    exported = run("tools/convert_to_hf.py", "--load", tmp_path / "run", "--save", tmp_path / "out")
    assert (exported.returncode, exported.stderr) == (0, "")
    assert "largest difference of the logits" in exported.stdout
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("hub", "out"))
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)


@pytest.mark.parametrize("tool", ["convert_to_hf", "convert_from_hf"])
def test_help_needs_neither_torch_nor_transformers(tool: str) -> None:
    blocked = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None"
    command = f"{blocked}; from tools.{tool} import main; main(['--help'])"
    shown = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "--load DIR" in shown.stdout
    assert "--save DIR" in shown.stdout


WRONG = {
    "no checkpoint": (["convert_to_hf", "--load", "elsewhere", "--save", "out"], "--load elsewhere: there is no such"),
    "no model": (["convert_from_hf", "--load", "elsewhere", "--save", "out"], "--load elsewhere: there is no such"),
    "near flag": (["convert_to_hf", "--laod", "a", "--load", "a", "--save", "b"], "--laod: unknown flag; did you mean"),
    "no save": (["convert_from_hf", "--load", "elsewhere"], "--save"),
    "step": (["convert_to_hf", "--load", "a", "--save", "b", "--step", "-1"], "--step"),
}


@pytest.mark.parametrize(("arguments", "named"), WRONG.values(), ids=WRONG.keys())
def test_invalid_input_is_one_line_and_exit_2(arguments: list[str], named: str) -> None:
    result = run(f"tools/{arguments[0]}.py", *arguments[1:])
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert named in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_failing_disk_is_one_line_and_leaves_no_files(tmp_path: Path) -> None:
    write_hub_folder(tmp_path / "hub", "mlm")
    assert convert_from_hf.main(["--load", str(tmp_path / "hub"), "--save", str(tmp_path / "run")]) == 0
    calls = {"convert_to_hf": ("run", 200_000), "convert_from_hf": ("hub", 20_000)}
    for tool, (source, largest_file) in calls.items():
        result = run(
            f"tools/{tool}.py", "--load", tmp_path / source, "--save", tmp_path / "out", largest_file=largest_file
        )
        assert (result.returncode, result.stderr) == (2, f"error: --save {tmp_path / 'out'}: File too large\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "run"]


def test_a_failed_check_exits_3_and_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_hub_folder(tmp_path / "hub", "mlm")
    convert_from_hf.main(["--load", str(tmp_path / "hub"), "--save", str(tmp_path / "run")])
    misplace_rows(monkeypatch, "embedding.word_embeddings.weight")
    arguments = ["--load", str(tmp_path / "run"), "--save", str(tmp_path / "out")]
    assert convert_to_hf.main(arguments) == 3
    assert "first diverging: embedding" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert convert_to_hf.main([*arguments, "--no-check"]) == 0
    assert (tmp_path / "out").is_dir()


def test_step_selects_a_checkpoint_of_the_run(tmp_path: Path) -> None:
    write_hub_folder(tmp_path / "hub", "mlm")
    convert_from_hf.main(["--load", str(tmp_path / "hub"), "--save", str(tmp_path / "run")])
    (tmp_path / "run" / "step_0000000").rename(tmp_path / "run" / "step_0000020")
    arguments = ["--load", str(tmp_path / "run"), "--save", str(tmp_path / "out"), "--no-check"]
    assert convert_to_hf.main([*arguments, "--step", "20"]) == 0
    folder = ["--load", str(tmp_path / "run" / "step_0000020"), "--save", str(tmp_path / "other"), "--no-check"]
    assert convert_to_hf.main(folder) == 0
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "other"))
    assert all(one[name].equal(other[name]) for name in one)
    assert len(one["model.layers.0.attn.Wqkv.weight"]) == 3 * MODEL.hidden_size
