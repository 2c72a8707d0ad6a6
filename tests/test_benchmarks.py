"""Benchmarks state missing packages in one line, with exit code 2, before they measure anything."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.test_packaging import DISTRIBUTIONS, imported_modules, required

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))
OWN_MODULES = {path.stem for path in BENCHMARKS}
WITHOUT = """
import runpy, sys
sys.modules[sys.argv[1]] = None
sys.argv = sys.argv[2:]
sys.path[0] = "benchmarks"
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script where a package cannot be imported."""


def run_without(package: str, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, package, *map(str, command)], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("package", "extra", "command"),
    [
        ("accelerate", "clients", ("train_step_cpu.py", "--data", "p", "--tokenizer", "t")),
        ("pytest", "dev", ("convert.py",)),
        pytest.param(
            "transformer_engine",
            "te",
            ("train_step_gpu.py", "--data", "p", "--tokenizer", "t"),
            marks=pytest.mark.slow,  # imports torch first
        ),
    ],
)
def test_missing_package_is_one_line(package: str, extra: str, command: tuple[str, ...]) -> None:
    done = run_without(package, f"benchmarks/{command[0]}", *command[1:])
    message = f"error: this benchmark needs the package {package}: pip install 'megatron_ettin[{extra}]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


def test_interpreter_without_datatrove_is_one_line(tmp_path: Path) -> None:
    done = run_without("datatrove", "benchmarks/preprocess.py", "--tokenizer", "t", "--datatrove", tmp_path / "python")
    message = f"error: --datatrove {tmp_path}/python: is not a Python interpreter that can import datatrove\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.name)
def test_packages_of_extras_are_required_by_name(path: Path) -> None:
    installed = {canonicalize_name(need.name) for need in required("megatron_ettin")}
    checked = set(re.findall(r'require\("(\w+)"', path.read_text(encoding="utf-8")))
    imported = {"pytest" if module == "tests" else module for module in imported_modules(path) - OWN_MODULES}
    unchecked = {
        module
        for module in imported - checked
        if not installed & {canonicalize_name(name) for name in DISTRIBUTIONS.get(module, [module])}
    }
    assert unchecked == set()
