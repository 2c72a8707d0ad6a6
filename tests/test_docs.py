"""Files, flags and make targets that the documents name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from megatron_ettin.config.flags import build_parser

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
IDS = [str(path.relative_to(ROOT)) for path in DOCUMENTS]

OTHERS = {"--nproc-per-node", "--standalone", "--nnodes", "--gpus", "--logdir", "--nodes", "--editable", "--constraint"}
"""Flags of torchrun, docker, tensorboard, Slurm and pip."""


def known_flags() -> set[str]:
    """Return the flags of the trainer, of every tool, the scripts and the benchmarks."""
    flags = {option for action in build_parser()._actions for option in action.option_strings}
    sources = ("tools/*.py", "megatron_ettin/**/*.py", "examples/*.sh", "benchmarks/*.py")
    for path in (path for pattern in sources for path in ROOT.glob(pattern)):
        flags |= set(re.findall(r"--[a-z][a-z0-9-]+", path.read_text()))
    return flags | OTHERS


def test_documents_were_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/architecture.md"} <= set(IDS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
    missing = [target for target in targets if "://" not in target and not (document.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_paths_are_there(document: Path) -> None:
    named = set(re.findall(r"\b(?:megatron_ettin|tools|examples|tests|docs)/[\w./]*\w/?", document.read_text()))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_flags_are_known(document: Path) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", document.read_text()))
    assert sorted(named - known_flags()) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_make_targets_are_there(document: Path) -> None:
    targets = set(re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)", document.read_text(), re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert {first or second for first, second in targets} <= set(phony[1].split())
