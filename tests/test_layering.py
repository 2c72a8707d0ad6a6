"""The import table of the house: which room may import which, and which packages from outside.

Every import counts, wherever it stands: at the top, in a function, under TYPE_CHECKING, relative, or by a literal name
given to importlib. There are no exceptions to list.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "megatron_ettin"

ROOMS = {
    "config": set(),
    "runtime": {"config"},
    "data": {"config"},
    "model": {"config", "runtime"},
    "convert": {"config", "checkpoint.layout"},
    "release": {"config", "convert", "checkpoint.layout"},
    "evaluation": {"config", "checkpoint.layout"},
    "objectives": {"config", "runtime", "data", "model"},
    "optim": {"config", "runtime"},
    "checkpoint": {"config", "runtime"},
    "doctor": {"config", "runtime"},
    "train": {
        "config",
        "runtime",
        "doctor",
        "data",
        "model",
        "convert",
        "evaluation",
        "objectives",
        "optim",
        "checkpoint",
    },
}
"""Room -> the rooms it may import besides itself; already transitive. A dotted name is one file of a room."""

RELEASE_PLAN = {
    *("release.flags", "release.request", "release.plan"),
    *("release.revisions", "release.orders", "release.targets"),
}
RELEASE_PLAN_READS = {"convert.metrics", "convert.training_facts", "convert.options", "convert.model_flags"}
"""The part of release that lists what a release would be, and what it reads of convert: neither needs torch."""

PREFLIGHT = {"train.preflight", "train.fallback", "train.inheritance", "train.inputs"}
"""The part of train that refuses wrong input before anything heavy is loaded."""

NARROWER = {
    "checkpoint.integrity": {"config"},
    "checkpoint.layout": {"config", "checkpoint.integrity"},
    "checkpoint.retention": {"config", "checkpoint.integrity", "checkpoint.layout"},
    **{file: {"config", "data", "checkpoint.layout", *PREFLIGHT} for file in PREFLIGHT},
    **{file: {"config", "checkpoint.layout"} for file in RELEASE_PLAN_READS},
    **{
        file: {"config", "checkpoint.layout", "release.layout", *RELEASE_PLAN, *RELEASE_PLAN_READS}
        for file in RELEASE_PLAN
    },
}
"""Files held to less than their room: they run before, or without, torch and megatron-core."""

MAY_IMPORT_MEGATRON = {"runtime", "model", "objectives", "optim", "checkpoint", "train.build", "train.step"}
STDLIB_CHECKPOINT = {"checkpoint.integrity", "checkpoint.layout", "checkpoint.retention"}
WITHOUT_TORCH = {"config", "data", *STDLIB_CHECKPOINT, "pretrain", *PREFLIGHT, *RELEASE_PLAN, *RELEASE_PLAN_READS}
STDLIB_RUNTIME = {"runtime.lifeline", "runtime.signals"}
STDLIB_AND: dict[str, set[str]] = {"config": {"yaml"}, **{file: set() for file in STDLIB_CHECKPOINT | STDLIB_RUNTIME}}
"""Rooms and files whose outside packages are listed in full."""

ENTRIES = {"pretrain": {"config", "runtime.signals", "train"}, "tools": {*ROOMS, "pretrain"}}
"""What stands outside the rooms: the entry module and the command lines in tools/."""


def place_of(module: str) -> str:
    """Return a module's name inside the package: ``config.flags``, or ``tools`` for a command line."""
    return module.removeprefix(f"{PACKAGE}.") if module != PACKAGE else ""


def covers(name: str, place: str) -> bool:
    """Whether ``name`` (a room or one file of it) holds the module ``place``."""
    return place == name or place.startswith(f"{name}.")


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
    if top == "megatron" and not any(covers(name, place) for name in MAY_IMPORT_MEGATRON):
        yield f"{place} imports {imported}: only {', '.join(sorted(MAY_IMPORT_MEGATRON))} may import megatron-core"
    if top == "torch" and any(covers(name, place) for name in WITHOUT_TORCH):
        yield f"{place} imports {imported}: it must run without torch"
    for name, packages in STDLIB_AND.items():
        if covers(name, place) and top not in sys.stdlib_module_names and top not in packages:
            yield f"{place} imports {imported}: it may use the standard library and {packages or 'nothing else'} only"


def broken_arrows(place: str, target: str) -> Iterator[str]:
    """Yield what is wrong with ``place`` importing ``target``, both inside the house."""
    room = place.split(".")[0]
    allowed = next((rooms for name, rooms in NARROWER.items() if covers(name, place)), None)
    if allowed is None:
        allowed = {room, *ROOMS[room]} if room in ROOMS else ENTRIES[room]
    if target and not any(covers(name, target) for name in allowed):
        yield f"{place} imports {PACKAGE}.{target}: it may import {', '.join(sorted(allowed)) or 'no other room'}"


def house() -> list[tuple[str, Path]]:
    """Every source file with its module name; a command line counts as module ``tools.NAME``."""
    modules = []
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        modules.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    modules += [(f"tools.{path.stem}", path) for path in sorted((ROOT / "tools").rglob("*.py"))]
    return modules


@pytest.mark.parametrize(("module", "path"), house(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_follow_the_table(module: str, path: Path) -> None:
    found = imports_of(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py")
    assert [rule for imported in found for rule in broken_rules(place_of(module), imported)] == []


def test_every_folder_of_the_package_is_a_room() -> None:
    folders = {path.name for path in (ROOT / PACKAGE).iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= set(ROOMS)
    files = {path.stem for path in (ROOT / PACKAGE).glob("*.py")}
    assert files <= {"__init__", "pretrain"}


def test_table_is_transitive() -> None:
    for room, allowed in ROOMS.items():
        for other in allowed & set(ROOMS):
            assert ROOMS[other] <= allowed | {"checkpoint.layout"}, f"{room} -> {other} -> {ROOMS[other]}"
            assert room not in ROOMS[other], f"{room} and {other} import each other"


def test_package_inits_import_nothing() -> None:
    for path in (ROOT / PACKAGE).rglob("__init__.py"):
        assert list(imports_of(path.read_text(encoding="utf-8"), PACKAGE)) == [], path


@pytest.mark.parametrize(
    ("place", "source", "named"),
    [
        ("config.flags", "import numpy", "numpy"),
        ("config.flags", "from megatron_ettin.data import tokenizer", "megatron_ettin.data.tokenizer"),
        ("config.flags", "from ..data import tokenizer", "megatron_ettin.data.tokenizer"),
        ("config.flags", "from .. import data", "megatron_ettin.data"),
        ("data.rows", "def f() -> None:\n    import torch", "torch"),
        ("data.rows", "import importlib\nimportlib.import_module('torch.nn')", "torch.nn"),
        ("data.rows", "if TYPE_CHECKING:\n    from torch import Tensor", "torch.Tensor"),
        ("convert.mapping", "from megatron_ettin.checkpoint import save", "megatron_ettin.checkpoint.save"),
        ("convert.mapping", "import megatron.core", "megatron.core"),
        ("checkpoint.layout", "from megatron_ettin.runtime.groups import ranks", "megatron_ettin.runtime.groups.ranks"),
        ("checkpoint.layout", "import torch.distributed", "torch.distributed"),
        ("model.ettin", "from megatron_ettin.data.batch import PackedBatch", "megatron_ettin.data.batch.PackedBatch"),
        ("train.loop", "from megatron.core import parallel_state", "megatron.core.parallel_state"),
        ("train.preflight", "from megatron_ettin.train.build import x", "megatron_ettin.train.build.x"),
        ("pretrain", "import torch", "torch"),
        ("pretrain", "from megatron_ettin.model.ettin import EttinModel", "megatron_ettin.model.ettin.EttinModel"),
        ("tools.convert_to_hf", "import megatron.core", "megatron.core"),
        ("objectives.mlm", "from megatron_ettin.train.loop import train", "megatron_ettin.train.loop.train"),
    ],
)
def test_forbidden_imports_are_found(place: str, source: str, named: str) -> None:
    module = place if place.startswith("tools.") else f"{PACKAGE}.{place}"
    rules = [rule for imported in imports_of(source, module) for rule in broken_rules(place, imported)]
    assert any(f"imports {named}:" in rule for rule in rules)


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("config.yaml_file", "import yaml, json"),
        ("convert.mapping", "from megatron_ettin.checkpoint.layout import is_whole"),
        ("convert.mapping", "import torch"),
        ("model.ettin", "from .norm import BiasFreeLayerNorm"),
        ("train.step", "from megatron.core import parallel_state"),
        ("train.preflight", "from megatron_ettin.data.tokenizer import TokenizerFiles"),
        ("objectives.mlm", "from megatron_ettin.model.loss import cross_entropy_sum"),
        ("pretrain", "from megatron_ettin.train.run import run"),
        ("tools.convert_to_hf", "from megatron_ettin.convert import export"),
    ],
)
def test_allowed_imports_pass(place: str, source: str) -> None:
    module = place if place.startswith("tools.") else f"{PACKAGE}.{place}"
    assert [rule for imported in imports_of(source, module) for rule in broken_rules(place, imported)] == []
