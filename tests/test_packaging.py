"""What is installed: the pins cover everything, and nothing comes along that must not."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
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

# Where an extra is not installed, nothing tells that its package is imported by another name than it is installed by.
DISTRIBUTIONS = {"sklearn": ["scikit-learn"], **packages_distributions()}


def required(name: str, extra: str = "") -> list[Requirement]:
    """Return what a package needs on this machine; nothing where the package is not installed here."""
    try:
        told = [Requirement(line) for line in requires(name) or ()]
    except PackageNotFoundError:
        return []
    return [need for need in told if need.marker is None or need.marker.evaluate({"extra": extra})]


def is_cuda_part(name: str) -> bool:
    """Whether a package comes with torch's CUDA build, which pins it itself."""
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


def test_every_pin_is_needed_and_fits() -> None:
    needed = closure()
    assert sorted(PINS.keys() - needed.keys()) == []
    misfits = [str(need) for name in needed for need in needed[name] if not need.specifier.contains(PINS[name])]
    assert misfits == []


def test_accelerator_libraries_are_extras_and_apex_is_nothing() -> None:
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
    """Return the packages from elsewhere that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"megatron_ettin", "apex"}


def test_only_the_package_is_installed() -> None:
    packages = find_packages(str(ROOT), include=["megatron_ettin", "megatron_ettin.*"])
    folders = {path.parent for path in (ROOT / "megatron_ettin").rglob("*.py")}
    assert {ROOT / package.replace(".", "/") for package in packages} == folders


@pytest.mark.parametrize("module", ["megatron_ettin.pretrain", "megatron_ettin.data.preprocess.run"])
def test_start_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    heavy = {"torch", "megatron", "transformers", "transformer_engine", "apex", "ray", "matplotlib", "tensorboard"}
    heavy |= {"pyarrow", "nltk", "awkward"}
    assert not heavy & set(loaded.split())


def test_make_knows_its_words() -> None:
    for target, expected in {
        "install": "--constraint constraints.txt",
        "quickstart": "examples/quickstart.sh",
        "test": '-m "not gpu and not slow"',
        "test-slow": '-m "slow and not gpu"',
        "lint": "ruff check",
    }.items():
        told = subprocess.run(
            ["make", "--dry-run", target, "VENV=/nowhere/venv"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert expected in told.stdout, target
