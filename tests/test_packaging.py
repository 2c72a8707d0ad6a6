"""The installation: pins of all dependencies, declared imports, light start, and commands."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distributions, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[1]
PINS = {
    str(canonicalize_name(name)): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}

# Distributions whose import name differs, where they may not be installed.
DISTRIBUTIONS = {"sklearn": ["scikit-learn"], **packages_distributions()}


def required(name: str, extra: str = "") -> list[Requirement]:
    """Return the requirements of a package on this machine, or none if it is not installed."""
    try:
        requirements = [Requirement(line) for line in requires(name) or ()]
    except PackageNotFoundError:
        return []
    return [need for need in requirements if need.marker is None or need.marker.evaluate({"extra": extra})]


def is_cuda_part(name: str) -> bool:
    """Whether a package is part of torch's CUDA build, which pins it."""
    return name.startswith(("nvidia-", "cuda-")) or name == "triton"


def closure() -> dict[str, list[Requirement]]:
    """Return everything that ``.[dev]`` installs, with the requirements on it."""
    found: dict[str, list[Requirement]] = {}
    waiting = required("megatron_ettin", "dev")
    assert waiting, "megatron_ettin is not installed: make install"
    while waiting:
        need = waiting.pop()
        name = str(canonicalize_name(need.name))
        if name not in found and not is_cuda_part(name):
            waiting += [later for extra in ("", *need.extras) for later in required(name, extra)]
        found.setdefault(name, []).append(need)
    return {name: needs for name, needs in found.items() if not is_cuda_part(name)}


def test_every_installed_package_has_a_pin() -> None:
    assert sorted(closure().keys() - PINS.keys()) == []


def test_every_pin_is_needed_and_allowed() -> None:
    needed = closure()
    assert sorted(PINS.keys() - needed.keys()) == []
    misfits = [str(need) for name in needed for need in needed[name] if not need.specifier.contains(PINS[name])]
    assert misfits == []


def test_accelerator_libraries_are_extras_and_apex_is_not_required() -> None:
    needed = {canonicalize_name(need.name) for need in required("megatron_ettin")}
    assert {"megatron-core", "torch"} <= needed
    for line in requires("megatron_ettin") or ():
        assert canonicalize_name(Requirement(line).name) != "apex"
    assert not needed & {"transformer-engine", "ray"}


def test_every_import_is_declared() -> None:
    declared = {canonicalize_name(Requirement(line).name) for line in requires("megatron_ettin") or ()}
    undeclared = {
        f"{path.relative_to(ROOT)}: {module}"
        for path in [*(ROOT / "megatron_ettin").rglob("*.py"), *(ROOT / "tools").glob("*.py")]
        for module in imported_modules(path)
        if not declared & {canonicalize_name(name) for name in DISTRIBUTIONS.get(module, [module])}
    }
    assert sorted(undeclared) == []


def imported_modules(path: Path) -> set[str]:
    """Return the third-party packages that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"megatron_ettin", "apex"}


def test_all_folders_of_the_package_are_installed() -> None:
    packages = find_packages(str(ROOT), include=["megatron_ettin", "megatron_ettin.*"])
    folders = {path.parent for path in (ROOT / "megatron_ettin").rglob("*.py")}
    assert {ROOT / package.replace(".", "/") for package in packages} == folders


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install a copy of the sources, without dependencies."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("megatron_ettin", "tools"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(target), str(source)], check=True)
    return target


@pytest.mark.slow
def test_installation_has_a_command_for_every_tool(installation: Path) -> None:
    [installed] = distributions(path=[str(installation)])
    commands = {entry.name: entry.value for entry in installed.entry_points if entry.group == "console_scripts"}
    tools = {path.stem for path in (ROOT / "tools").glob("[!_]*.py")}
    assert {value for name, value in commands.items() if name != "ettin-pretrain"} == {
        f"megatron_ettin.tools.{tool}:main" for tool in tools
    }
    assert {"ettin-pretrain", "ettin-preprocess", "ettin-convert-to-hf"} <= commands.keys()
    assert {path.name for path in (installation / "bin").iterdir()} == commands.keys()
    for name in commands:
        helped = run_command(installation, name, "--help")
        assert (helped.returncode, helped.stderr) == (0, ""), name
        assert helped.stdout.startswith("usage:"), name
    refused = run_command(installation, "ettin-pretrain", "--hiden-size", "8")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    refused = run_command(installation, "ettin-convert-to-hf", "--load", str(installation), "--save", "x")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: --load")


def run_command(installation: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an installed command outside the repository."""
    environment = {**os.environ, "PYTHONPATH": str(installation)}
    command = [str(installation / "bin" / name), *arguments]
    return subprocess.run(command, cwd=installation, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("module", ["megatron_ettin.pretrain", "megatron_ettin.data.preprocess.run"])
def test_start_imports_no_heavy_package(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    heavy = {"torch", "megatron", "transformers", "transformer_engine", "apex", "ray", "matplotlib", "tensorboard"}
    heavy |= {"pyarrow", "nltk", "awkward"}
    assert not heavy & set(loaded.split())


def test_make_targets_run_their_commands() -> None:
    for target, expected in {
        "install": "--constraint constraints.txt",
        "quickstart": "examples/quickstart.sh",
        "test": '-m "not gpu and not slow"',
        "test-slow": '-m "slow and not gpu"',
        "lint": "ruff check",
    }.items():
        printed = subprocess.run(
            ["make", "--dry-run", target, "VENV=/nowhere/venv"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert expected in printed.stdout, target
