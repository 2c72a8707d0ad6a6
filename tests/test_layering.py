"""The import table: which folder may import which, and which packages from outside.

Every import counts, wherever it stands: at the top, in a function, under TYPE_CHECKING, relative, or by a literal name
given to importlib.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "megatron_ettin"

GROUND = {"errors", "files", "cli"}
"""Modules that every folder may import. They use the standard library alone."""

FOLDERS = {
    "config": set(),
    "planning": {"config"},
    "runtime": {"config", "runtime.health"},
    "runtime.health": {"config", "runtime"},
    "data": {"config", "data.corpus"},
    "data.corpus": {"config"},
    "data.preprocess": {"config", "data.corpus", "data.preprocess.readers"},
    "data.preprocess.readers": {"config"},
    "model": {"config", "runtime"},
    "convert": {"config", "planning", "data", "data.corpus", "checkpoint.folder"},
    "release": {"config", "planning", "convert", "checkpoint.folder", "release.plan"},
    "release.plan": {"config", "planning", "checkpoint.folder"},
    "evaluation": {"config", "checkpoint.folder"},
    "objectives": {"config", "runtime", "data", "data.corpus", "model"},
    "optim": {"config", "runtime"},
    "checkpoint": {"config", "runtime", "optim", "checkpoint.folder"},
    "checkpoint.folder": {"config"},
    "doctor": {"config", "runtime"},
    "train": {
        *(
            "config",
            "planning",
            "runtime",
            "runtime.health",
            "doctor",
            "data",
            "data.corpus",
            "model",
            "objectives",
            "optim",
        ),
        *("checkpoint", "checkpoint.folder", "convert", "train.preflight", "train.telemetry"),
    },
    "train.preflight": {"config", "planning", "data", "data.corpus", "checkpoint.folder"},
    "train.telemetry": {"config", "planning", "runtime", "data", "model", "optim", "checkpoint.folder", "train"},
}
"""Folder -> the folders it may import besides itself. A subfolder without a row belongs to the row above it."""

WITHOUT_TORCH = {"config", "planning", "data", "checkpoint.folder", "train.preflight", "release.plan", "pretrain"}
WITH_MEGATRON = {"runtime", "model", "objectives", "optim", "checkpoint"}
STDLIB_AND: dict[str, set[str]] = {**{file: set() for file in GROUND}, "config": {"yaml"}, "checkpoint.folder": set()}
"""Folders and modules whose outside packages are listed in full."""

EXCEPTIONS: dict[str, str] = {
    "runtime.signals": "stdlib: signals are held before anything heavy is imported",
    "optim.schedules": "torch-free: a dry run prints the learning rates",
    "convert.options": "torch-free, read by release.plan: a release is planned before torch is imported",
    "convert.training_facts": "torch-free, read by release.plan: a release is planned before torch is imported",
    "train.build": "megatron: builds the model that megatron-core's schedules run",
    "train.step": "megatron: runs megatron-core's schedules",
}
"""Modules that differ from their folder, each with the reason; at most six."""

ENTRIES = {
    "pretrain": {"config", "planning", "optim", "runtime", "train", "train.preflight"},
    "tools": {*FOLDERS, "pretrain"},
}
"""The entry module and the command lines in tools/."""


def place_of(module: str) -> str:
    """Return a module's name inside the package: ``config.run``, or ``tools`` for a command line."""
    return module.removeprefix(f"{PACKAGE}.") if module != PACKAGE else ""


def covers(name: str, place: str) -> bool:
    """Whether the module ``place`` is ``name`` or lies below it."""
    return place == name or place.startswith(f"{name}.")


def folder_of(place: str) -> str:
    """Return the row of the table that a module belongs to: the longest that covers it."""
    return max((row for row in {*FOLDERS, *ENTRIES} if covers(row, place)), key=len, default="")


def is_excepted(place: str, kind: str) -> bool:
    """Whether ``place`` is one of the exceptions of that kind."""
    return any(covers(name, place) and reason.startswith(kind) for name, reason in EXCEPTIONS.items())


def imports_of(source: str, module: str, *, is_package: bool = False) -> Iterator[str]:
    """Yield the absolute name of every module that the source imports; ``from a import b`` yields ``a.b``."""
    parents = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__", "importorskip"):
                yield str(node.args[0].value)


def broken_rules(place: str, imported: str) -> Iterator[str]:
    """Yield what is wrong with the module at ``place`` importing ``imported``."""
    top = imported.split(".")[0]
    if top == PACKAGE:
        yield from broken_arrows(place, place_of(imported))
        return
    stdlib_only = is_excepted(place, "stdlib")
    if top == "megatron" and folder_of(place) not in WITH_MEGATRON and not is_excepted(place, "megatron"):
        yield f"{place} imports {imported}: only {', '.join(sorted(WITH_MEGATRON))} may import megatron-core"
    if top in ("torch", "megatron") and (
        any(covers(name, place) for name in WITHOUT_TORCH) or is_excepted(place, "torch-free") or stdlib_only
    ):
        yield f"{place} imports {imported}: it must run without torch"
    packages = next((packages for name, packages in STDLIB_AND.items() if covers(name, place)), None)
    if packages is None and stdlib_only:
        packages = set()
    if packages is not None and top not in sys.stdlib_module_names and top not in packages:
        yield f"{place} imports {imported}: it may use the standard library and {packages or 'nothing else'} only"


def broken_arrows(place: str, target: str) -> Iterator[str]:
    """Yield what is wrong with ``place`` importing ``target``, both inside the package."""
    if not target or any(covers(module, target) for module in GROUND):
        return
    own = folder_of(place)
    allowed = {own, *FOLDERS.get(own, ENTRIES.get(own, set()))}
    if is_excepted(target, "torch-free, read by release.plan") and own == "release.plan":
        return
    if folder_of(target) not in allowed:
        yield f"{place} imports {PACKAGE}.{target}: it may import {', '.join(sorted(allowed)) or 'no other folder'}"


def source_files() -> list[tuple[str, Path]]:
    """Every source file with its module name; a command line counts as module ``tools.NAME``."""
    modules = []
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        modules.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    modules += [(f"tools.{path.stem}", path) for path in sorted((ROOT / "tools").rglob("*.py"))]
    return modules


def test_imports_follow_the_table() -> None:
    assert [
        rule
        for module, path in source_files()
        for imported in imports_of(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py")
        for rule in broken_rules(place_of(module), imported)
    ] == []


def test_every_folder_of_the_package_has_a_row() -> None:
    folders = {path.name for path in (ROOT / PACKAGE).iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {row for row in FOLDERS if "." not in row}
    assert all((ROOT / PACKAGE / row.replace(".", "/")).is_dir() for row in FOLDERS)
    assert {path.stem for path in (ROOT / PACKAGE).glob("*.py")} == {"__init__", "pretrain", *GROUND}


def test_exceptions_are_few_and_needed() -> None:
    assert len(EXCEPTIONS) <= 6
    places = {place_of(module) for module, _ in source_files()}
    assert set(EXCEPTIONS) <= places


def test_folders_do_not_import_each_other_in_circles() -> None:
    arrows = {
        row: {other for other in allowed if other.split(".")[0] != row.split(".")[0]}
        for row, allowed in FOLDERS.items()
    }
    done: set[str] = set()
    while left := {row for row in arrows if row not in done}:
        free = {row for row in left if arrows[row] <= done}
        assert free, f"a circle among {', '.join(sorted(left))}"
        done |= free


def test_modules_do_not_import_each_other_in_circles() -> None:
    known = {module for module, _ in source_files()}
    arrows = {}
    for module, path in source_files():
        names = imports_of(path.read_text(encoding="utf-8"), module)
        found = {name if name in known else name.rpartition(".")[0] for name in names}
        arrows[module] = (found & known) - {module}
    done: set[str] = set()
    while left := arrows.keys() - done:
        free = {module for module in left if arrows[module] <= done}
        assert free, f"a circle among {', '.join(sorted(left))}"
        done |= free


def test_package_inits_import_nothing() -> None:
    for path in (ROOT / PACKAGE).rglob("__init__.py"):
        assert list(imports_of(path.read_text(encoding="utf-8"), PACKAGE)) == [], path


FORBIDDEN = [
    ("config.run", "import numpy", "numpy"),
    ("config.run", "from megatron_ettin.data.corpus import tokenizer", "megatron_ettin.data.corpus.tokenizer"),
    ("config.run", "from ..data.corpus import tokenizer", "megatron_ettin.data.corpus.tokenizer"),
    ("config.run", "from .. import data", "megatron_ettin.data"),
    ("data.rows", "def f() -> None:\n    import torch", "torch"),
    ("data.rows", "import importlib\nimportlib.import_module('torch.nn')", "torch.nn"),
    ("data.rows", "if TYPE_CHECKING:\n    from torch import Tensor", "torch.Tensor"),
    ("convert.mapping", "from megatron_ettin.checkpoint import save", "megatron_ettin.checkpoint.save"),
    ("convert.mapping", "import megatron.core", "megatron.core"),
    (
        "checkpoint.folder.layout",
        "from megatron_ettin.runtime.ranks import Ranks",
        "megatron_ettin.runtime.ranks.Ranks",
    ),
    ("checkpoint.folder.layout", "import torch.distributed", "torch.distributed"),
    ("model.ettin", "from megatron_ettin.data.batch import PackedBatch", "megatron_ettin.data.batch.PackedBatch"),
    ("train.loop", "from megatron.core import parallel_state", "megatron.core.parallel_state"),
    ("train.preflight.prepare", "from megatron_ettin.train.build import x", "megatron_ettin.train.build.x"),
    ("pretrain", "import torch", "torch"),
    ("pretrain", "from megatron_ettin.model.ettin import EttinModel", "megatron_ettin.model.ettin.EttinModel"),
    ("tools.convert_to_hf", "import megatron.core", "megatron.core"),
    ("objectives.mlm", "from megatron_ettin.train.loop import train", "megatron_ettin.train.loop.train"),
]
ALLOWED = [
    ("config.yaml_file", "import yaml, json"),
    ("convert.mapping", "from megatron_ettin.checkpoint.folder.integrity import is_complete"),
    ("convert.mapping", "import torch"),
    ("model.ettin", "from .norm import BiasFreeLayerNorm"),
    ("train.step", "from megatron.core import parallel_state"),
    ("train.preflight.prepare", "from megatron_ettin.data.corpus.tokenizer import TokenizerFiles"),
    ("objectives.mlm", "from megatron_ettin.model.cross_entropy import cross_entropy_sum"),
    ("pretrain", "from megatron_ettin.train.run import run"),
    ("tools.convert_to_hf", "from megatron_ettin.convert import export"),
]


def rules_broken(place: str, source: str) -> list[str]:
    """What is wrong with a module at ``place`` that consists of ``source``."""
    module = place if place.startswith("tools.") else f"{PACKAGE}.{place}"
    return [rule for imported in imports_of(source, module) for rule in broken_rules(place, imported)]


def test_forbidden_imports_are_found() -> None:
    for place, source, named in FORBIDDEN:
        assert any(f"imports {named}:" in rule for rule in rules_broken(place, source)), (place, source)


def test_allowed_imports_pass() -> None:
    assert [rule for place, source in ALLOWED for rule in rules_broken(place, source)] == []
