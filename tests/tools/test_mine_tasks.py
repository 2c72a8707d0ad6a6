"""tools/mine_tasks.py: from a folder of sources to tasks that the suites read; refused input writes nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from megatron_ettin.evaluation.suites.classification.local import read_local_task as read_labelled
from megatron_ettin.evaluation.suites.generative.local import find_local_tasks, read_local_task

ROOT = Path(__file__).resolve().parents[2]
THINGS = ("apples", "boats", "candles", "doors", "eggs", "forks", "gloves", "hats", "islands", "jars")
PACKAGES = ("one", "two", "three", "four", "five", "six")


def mine(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "tools/mine_tasks.py", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )


def write_package(folder: Path) -> Path:
    """Write a package of a hundred files with two functions each, all different."""
    folder.mkdir()
    for number in range(100):
        kind, other = THINGS[number % 10], THINGS[number // 10]
        functions = [
            f"def {verb}_{kind}_{other}({kind}, {other}_{folder.name}):\n"
            f'    """{verb.title()} all {kind} that lie next to the {other} of {folder.name}."""\n'
            f"    {verb}ed_{number} = {kind} + {other}_{folder.name}\n"
            f"    return {verb}ed_{number} * {number}\n"
            for verb in ("sort", "count")
        ]
        (folder / f"module{number}.py").write_text("\n\n".join(functions))
    return folder


def test_suites_read_what_is_mined(tmp_path: Path) -> None:
    packages = [write_package(tmp_path / name) for name in PACKAGES]
    mined = mine("--source", *packages, "--output", tmp_path / "data", "--max-items", "200")
    assert mined.returncode == 0, mined.stderr

    assert len(mined.stdout.splitlines()) == 8
    by_package = read_labelled(tmp_path / "data" / "classification" / "package", 0.1)
    assert by_package.classes == list(range(6))
    assert by_package.purposes.origins["choice"] == "validation.jsonl"
    assert len(by_package.purposes.train) == 200
    assert read_labelled(tmp_path / "data" / "classification" / "belongs", 0.1).classes == [0, 1]
    choices = {name: read_local_task(name, path).rows for name, path in find_local_tasks(tmp_path / "data").items()}
    assert {name: len(rows) for name, rows in choices.items()} == {"word_order": 50, "its_function": 50}


def test_an_unknown_package_is_refused(tmp_path: Path) -> None:
    mined = mine("--source", "no_such_package", "--output", tmp_path / "data")
    assert mined.returncode == 2
    assert mined.stderr.startswith("error: --source no_such_package: ")
    assert not (tmp_path / "data").exists()


def test_a_source_without_docstrings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "module.py").write_text("def f():\n    return 1\n")
    mined = mine("--source", tmp_path / "bare", "--output", tmp_path / "data")
    assert mined.returncode == 2
    assert mined.stderr.startswith(f"error: --source {tmp_path}/bare: no function with a docstring")
